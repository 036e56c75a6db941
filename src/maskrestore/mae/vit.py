"""The vision transformer masked autoencoder of He et al. (2022), in the official architecture.

The encoder takes the visible tokens and a class token. A light decoder takes their encodings, with a learned mask token
in place of each hidden token, and predicts pixels. Position embeddings are fixed 2-D sines and cosines. Parameters have
the names of the official repository, so that its checkpoints load without renaming.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; facebookresearch/mae,
``models_mae.py``. Departures: the mask is an argument (the official code draws it in the network), the masks of a batch
may hide different numbers of tokens, and normalisation is part of the network.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.mae.fast.lowered import lowered
from maskrestore.mae.fast.quantized import quantized
from maskrestore.mae.packing import (
    SequencePadding,
    gather_tokens,
    run_in_groups,
    scatter_tokens,
    sequence_padding,
    token_order,
)
from maskrestore.mae.transformer import Block, PatchEmbedding, add_and_norm, sincos_positions
from maskrestore.mae.vit_config import ViTMAEConfig

__all__ = ["ViTMAE"]


class ViTMAE(nn.Module):
    """Vision transformer masked autoencoder. See :class:`~maskrestore.mae.vit_config.ViTMAEConfig`.

    ``pos_embed`` and ``decoder_pos_embed`` are fixed, but are saved with the weights, as in the official repository.
    """

    def __init__(self, config: ViTMAEConfig) -> None:
        super().__init__()
        self.config = config
        width, decoder_width = config.width, config.decoder_width
        self.patch_embed = PatchEmbedding(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = _blocks(config, width, config.depth, config.heads)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_blocks = _blocks(config, decoder_width, config.decoder_depth, config.decoder_heads)
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=config.norm_eps)
        self.decoder_pred = nn.Linear(decoder_width, 3 * config.patch_size**2)
        self.pos_embed: Tensor
        self.decoder_pos_embed: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("pos_embed", sincos_positions(width, config.grid))
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_width, config.grid))
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self._initialise()

    @property
    def grid(self) -> int:
        """Tokens along each side."""
        return self.config.grid

    @property
    def image_size(self) -> int:
        """Pixels along each side of the input."""
        return self.config.image_size

    @property
    def width(self) -> int:
        """Columns of the encoder's matrices."""
        return self.config.width

    @property
    def skips_hidden(self) -> bool:
        """True: the encoder takes visible tokens only."""
        return True

    def in_float32(self) -> ViTMAE:
        """The network itself, since no other form is faster in float32."""
        return self

    def in_bfloat16(self) -> ViTMAE:
        """A copy for inference with weights cast to bfloat16 once; see :func:`lowered`."""
        return lowered(self)

    def in_int8(self) -> ViTMAE:
        """A copy for inference with linear layers in int8; see :func:`quantized`, also for its ConfigError."""
        return quantized(self, nn.Linear)

    def forward(
        self,
        images: Tensor,
        hidden: Tensor,
        *,
        tokens: Tensor | None = None,
        visible: tuple[int, int] | None = None,
    ) -> Tensor:
        """Reconstruct the hidden tokens of images from the visible ones.

        images: ``(B, 3, S, S)`` in [0, 1]. hidden: ``(B, g, g)`` bool; each mask may hide any number of tokens, also
        none or all. tokens: :meth:`embed` of the images, for callers that apply many masks to an image. visible: a
        lower and an upper bound of the number of visible tokens of each mask; all masks are then processed in one
        batch, padded to the upper bound. None: the masks with the same number of visible tokens form a batch.

        Returns ``(B, 3, S, S)`` in units of [0, 1], not clipped; pixels of visible tokens are those of the image.

        Raises InvalidImageError for other shapes, ConfigError if the network predicts normalised pixels.
        """
        if self.config.normalized_pixel_targets:
            raise ConfigError(
                "this network predicts pixels normalised by the statistics of their patch (norm_pix_loss), "
                "which cannot be turned back into pixels for hidden patches; use weights trained without it"
            )
        self._check(images, hidden)
        tokens = self.embed(images) if tokens is None else tokens
        flat = hidden.flatten(1)  # (B, g, g) -> (B, L)
        if visible is None:
            patches = run_in_groups(self._reconstruct_group, tokens, flat)
        else:
            patches = self._reconstruct(tokens, flat, visible)
        pixels = hidden.repeat_interleave(self.config.patch_size, 1).repeat_interleave(self.config.patch_size, 2)
        return torch.where(pixels.unsqueeze(1), self.to_pixels(patches), images)

    def embed(self, images: Tensor) -> Tensor:
        """The part of the work that does not depend on the mask: ``(B, 3, S, S)`` in [0, 1] -> tokens ``(B, L, D)``."""
        return self.patch_embed((images - self.mean) / self.std) + self.pos_embed[:, 1:]  # type: ignore[no-any-return]

    def predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Predict the normalised pixels of every token, also of the visible ones, as the official network does.

        images, hidden: as for :meth:`forward`, which computes hidden tokens only. Returns ``(B, g*g, p*p*3)``: tokens
        row by row; within a token the order is rows, columns, channels. Raises InvalidImageError for other shapes.
        """
        self._check(images, hidden)
        return run_in_groups(self._predict_group, self.embed(images), hidden.flatten(1))

    def to_pixels(self, patches: Tensor) -> Tensor:
        """Normalised pixels by token, ``(B, g*g, p*p*3)`` -> images ``(B, 3, S, S)`` float32 in units of [0, 1]."""
        grid, patch = self.config.grid, self.config.patch_size
        # (B, g g, p p 3) -> (B, g, g, p, p, 3) -> (B, 3, g, p, g, p) -> (B, 3, S, S)
        pixels = patches.float().view(-1, grid, grid, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(-1, 3, self.image_size, self.image_size) * self.std + self.mean

    def _predict_group(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Tokens ``(B, L, D)`` and masks ``(B, L)`` that hide the same number of tokens -> ``(B, L, p*p*3)``."""
        x = self._decoder_input(tokens, hidden, token_order(hidden), _visible_in(hidden))
        _, normed = add_and_norm(*_run(self.decoder_blocks, x), self.decoder_norm)
        # Drop the class token: (B, 1 + L, p p 3) -> (B, L, p p 3)
        return self.decoder_pred(normed)[:, 1:]  # type: ignore[no-any-return]

    def _reconstruct_group(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        return self._reconstruct(tokens, hidden, _visible_in(hidden))

    def _reconstruct(self, tokens: Tensor, hidden: Tensor, visible: tuple[int, int]) -> Tensor:
        """Predict the hidden tokens only: ``(B, L, D)``, ``(B, L)`` -> ``(B, L, p*p*3)``, undefined for visible tokens.

        The last layer of the decoder computes the hidden tokens only; they attend to all tokens. visible: as for
        :meth:`forward`.
        """
        order = token_order(hidden)
        *body, last = self.decoder_blocks
        stream = _run(body, self._decoder_input(tokens, hidden, order, visible))
        wanted = order[:, visible[0] :]  # every hidden token, and some visible ones of masks that hide fewer tokens
        x, update = last(*stream, query_positions=wanted + 1)  # + 1 for the class token
        _, normed = add_and_norm(x, update, self.decoder_norm)
        x = self.decoder_pred(normed)
        return scatter_tokens(x, wanted, x.new_zeros(()), hidden.shape[1])

    def _decoder_input(self, tokens: Tensor, hidden: Tensor, order: Tensor, visible: tuple[int, int]) -> Tensor:
        """Encode the visible tokens and put mask tokens at the positions of the hidden ones: ``(B, 1 + L, E)``."""
        fewest, most = visible
        seen = order[:, :most]
        # (B, L, D) -> (B, n, D) -> (B, 1 + n, D)
        start = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype).expand(len(tokens), -1, -1)
        x = torch.cat([start, gather_tokens(tokens, seen)], dim=1)
        is_padding = None if fewest == most else hidden.gather(1, seen)  # (B, n)
        padding = None if is_padding is None else sequence_padding(F.pad(is_padding, (1, 0)))
        _, normed = add_and_norm(*_run(self.blocks, x, padding=padding), self.norm)
        x = self.decoder_embed(normed).to(tokens.dtype)
        encoded = x[:, 1:]
        if is_padding is not None:
            encoded = torch.where(is_padding.unsqueeze(2), self.mask_token.to(x.dtype), encoded)
        # (B, 1 + n, E) -> (B, L, E) -> (B, 1 + L, E)
        places = scatter_tokens(encoded, seen, self.mask_token, hidden.shape[1])
        return torch.cat([x[:, :1], places], dim=1) + self.decoder_pos_embed

    def _check(self, images: Tensor, hidden: Tensor) -> None:
        size, grid = self.image_size, self.grid
        if images.ndim != 4 or not len(images) or tuple(images.shape[1:]) != (3, size, size):
            raise InvalidImageError(f"expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}")
        expected = (len(images), grid, grid)
        if hidden.dtype != torch.bool or tuple(hidden.shape) != expected:
            raise InvalidImageError(
                f"expected hidden to be bool of shape {expected}, got {hidden.dtype} of shape {tuple(hidden.shape)}"
            )

    def _initialise(self) -> None:
        """The official initialisation: Xavier for matrices, a standard deviation of 0.02 for the two learned tokens."""
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))  # flattened: as a Linear
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def _blocks(config: ViTMAEConfig, width: int, depth: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, config.mlp_ratio, config.norm_eps) for _ in range(depth))


def _run(
    blocks: Iterable[nn.Module], x: Tensor, *, padding: SequencePadding | None = None
) -> tuple[Tensor, Tensor | None]:
    """Apply layers to ``(B, N, D)``; returns the stream and the update still to be added to it, see :class:`Block`."""
    update: Tensor | None = None
    for block in blocks:
        x, update = block(x, update, padding=padding)
    return x, update


def _visible_in(hidden: Tensor) -> tuple[int, int]:
    """Smallest and largest number of visible tokens of ``(B, L)`` masks that hide the same number of tokens."""
    count = hidden.shape[1] - int(hidden[0].sum())
    return count, count
