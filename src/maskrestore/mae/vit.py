"""The masked autoencoder of He et al. (2022) with a vision transformer, in the official architecture.

The encoder sees visible tokens only, plus a class token; a light decoder gets a learned mask token at each
hidden place and predicts the pixels of every token. Positions are fixed 2-D sines and cosines. Parameter
names are those of the official repository, so that its checkpoints load as they are.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; facebookresearch/mae,
``models_mae.py``. Departures: the mask is an argument (the official code draws it inside), rows of the mask
may hide different numbers of tokens, and normalisation is part of the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.mae.fast.lowered import lowered
from maskrestore.mae.fast.quantized import quantized
from maskrestore.mae.packing import Filled, filled_sequences, gather_tokens, run_in_groups, scatter_tokens, token_order
from maskrestore.mae.transformer import Block, PatchEmbedding, added, sincos_positions

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VIT_PRESETS", "ViTMAE", "ViTMAEConfig"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_STACK = ("width", "depth", "heads")


@dataclass(frozen=True, kw_only=True)
class ViTMAEConfig:
    """Shape of a :class:`ViTMAE`. The defaults are those of ``VIT_PRESETS["tiny-32"]``."""

    image_size: int = 32
    patch_size: int = 2
    width: int = 192
    depth: int = 8
    heads: int = 3
    decoder_width: int = 128
    decoder_depth: int = 3
    decoder_heads: int = 4
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    """Epsilon of LayerNorm: 1e-6 in the official code; Hugging Face's configurations say 1e-12."""
    normalized_pixel_targets: bool = False
    """Trained on pixels normalised by the statistics of their own patch (``norm_pix_loss``). Such a network
    learns better features but cannot restore: a hidden patch's statistics are as unknown as its pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", *(f"{p}{n}" for p in ("", "decoder_") for n in _STACK)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if width % heads or width % 4:
                raise ConfigError(f"{prefix}width {width} must be a multiple of 4 and of {prefix}heads {heads}")
        if self.mlp_ratio <= 0 or self.norm_eps < 0:
            raise ConfigError(
                f"mlp_ratio must be positive and norm_eps not negative, got {self.mlp_ratio} and {self.norm_eps}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"mean and std need 3 numbers each, std positive; got {self.mean} and {self.std}")

    @property
    def grid(self) -> int:
        """Tokens along each side."""
        return self.image_size // self.patch_size


def _official(*, width: int, depth: int, heads: int, patch_size: int = 16) -> ViTMAEConfig:
    return ViTMAEConfig(
        image_size=224,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


VIT_PRESETS: dict[str, ViTMAEConfig] = {
    "base": _official(width=768, depth=12, heads=12),
    "large": _official(width=1024, depth=24, heads=16),
    "huge": _official(width=1280, depth=32, heads=16, patch_size=14),
    "tiny-32": ViTMAEConfig(),
}


class ViTMAE(nn.Module):
    """Vision transformer masked autoencoder. See :class:`ViTMAEConfig`.

    ``pos_embed`` and ``decoder_pos_embed`` are fixed, but travel with the weights as they do upstream.
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
        """Yes: the encoder sees visible tokens only."""
        return True

    def in_float32(self) -> ViTMAE:
        """Itself: nothing is faster."""
        return self

    def in_bfloat16(self) -> ViTMAE:
        """A copy for inference whose matrices are cast and laid out once; see :func:`lowered`."""
        return lowered(self)

    def in_int8(self) -> ViTMAE:
        """A copy for inference whose matrices are in int8; see :func:`quantized`."""
        return quantized(self, nn.Linear)

    def forward(
        self,
        images: Tensor,
        hidden: Tensor,
        *,
        tokens: Tensor | None = None,
        visible: tuple[int, int] | None = None,
    ) -> Tensor:
        """Reconstruct the hidden tokens of images from their visible ones.

        images: ``(B, 3, S, S)`` in [0, 1]; hidden: ``(B, g, g)`` bool, each row with any number of hidden
        tokens, none and all included. tokens: :meth:`embed` of the images, for callers that hide many sets of
        tokens of an image in turn. visible: see :meth:`_reconstruct`; by default masks of different sizes run
        one size after the other. Returns ``(B, 3, S, S)`` in [0, 1] units, not clipped; pixels of visible tokens
        are the image's own.

        Raises InvalidImageError for other shapes, ConfigError when the network predicts normalised pixels.
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
        """What all masks of an image share: ``(B, 3, S, S)`` in [0, 1] -> ``(B, L, D)`` patches with positions."""
        return self.patch_embed((images - self.mean) / self.std) + self.pos_embed[:, 1:]  # type: ignore[no-any-return]

    def predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Predict the normalised pixels of every token, visible ones included; arguments as in :meth:`forward`.

        Returns ``(B, g*g, p*p*3)`` as the official network does: tokens row by row; within a token rows,
        columns, then channels. :meth:`forward` leaves out what restoring does not need.
        """
        self._check(images, hidden)
        return run_in_groups(self._predict_group, self.embed(images), hidden.flatten(1))

    def to_pixels(self, patches: Tensor) -> Tensor:
        """Normalised pixels by token, ``(B, g*g, p*p*3)`` -> images ``(B, 3, S, S)`` float32 in [0, 1] units."""
        grid, patch = self.config.grid, self.config.patch_size
        # (B, g g, p p 3) -> (B, g, g, p, p, 3) -> (B, 3, g, p, g, p) -> (B, 3, S, S)
        pixels = patches.float().view(-1, grid, grid, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
        return pixels.reshape(-1, 3, self.image_size, self.image_size) * self.std + self.mean

    def _predict_group(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """``(B, L, D)`` tokens and ``(B, L)`` masks that hide equally many -> ``(B, L, p*p*3)``."""
        x = self._decoder_input(tokens, hidden, token_order(hidden), _visible_in(hidden))
        _, normed = added(*_run(self.decoder_blocks, x), self.decoder_norm)
        # The class token predicts nothing: (B, 1 + L, p p 3) -> (B, L, p p 3)
        return self.decoder_pred(normed)[:, 1:]  # type: ignore[no-any-return]

    def _reconstruct_group(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        return self._reconstruct(tokens, hidden, _visible_in(hidden))

    def _reconstruct(self, tokens: Tensor, hidden: Tensor, visible: tuple[int, int]) -> Tensor:
        """As :meth:`_predict_group`, but for hidden tokens only; other places hold nothing of use.

        The last layer of the decoder asks for the hidden tokens alone, which see all others as ever. visible: the
        fewest and the most visible tokens of a row; sequences have the length of the most.
        """
        order = token_order(hidden)
        *body, last = self.decoder_blocks
        stream = _run(body, self._decoder_input(tokens, hidden, order, visible))
        wanted = order[:, visible[0] :]  # every hidden token, and visible ones where a row has more than the fewest
        x, change = last(*stream, asking=wanted + 1)  # + 1: after the class token
        _, normed = added(x, change, self.decoder_norm)
        x = self.decoder_pred(normed)
        return scatter_tokens(x, wanted, x.new_zeros(()), hidden.shape[1])

    def _decoder_input(self, tokens: Tensor, hidden: Tensor, order: Tensor, visible: tuple[int, int]) -> Tensor:
        """Encode the visible tokens and put mask tokens in the places of the others: ``(B, 1 + L, E)``."""
        fewest, most = visible
        seen = order[:, :most]
        # (B, L, D) -> (B, n, D) -> (B, 1 + n, D)
        start = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype).expand(len(tokens), -1, -1)
        x = torch.cat([start, gather_tokens(tokens, seen)], dim=1)
        filling = None if fewest == most else hidden.gather(1, seen)  # (B, n): fills the sequence up
        filled = None if filling is None else filled_sequences(F.pad(filling, (1, 0)))
        _, normed = added(*_run(self.blocks, x, filled=filled), self.norm)
        x = self.decoder_embed(normed).to(tokens.dtype)
        encoded = x[:, 1:]
        if filling is not None:
            encoded = torch.where(filling.unsqueeze(2), self.mask_token.to(x.dtype), encoded)
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
        """The official initialisation: Xavier for matrices, 0.02 for the two learned tokens."""
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))  # a view: as a Linear, not a Conv2d
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def _blocks(config: ViTMAEConfig, width: int, depth: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, config.mlp_ratio, config.norm_eps) for _ in range(depth))


def _run(blocks: Iterable[nn.Module], x: Tensor, *, filled: Filled | None = None) -> tuple[Tensor, Tensor | None]:
    """The stream after some layers, and what is still to be added to it; see :class:`Block`."""
    change: Tensor | None = None
    for block in blocks:
        x, change = block(x, change, filled=filled)
    return x, change


def _visible_in(hidden: Tensor) -> tuple[int, int]:
    """Fewest and most visible tokens of ``(B, L)`` masks that hide equally many."""
    count = hidden.shape[1] - int(hidden[0].sum())
    return count, count
