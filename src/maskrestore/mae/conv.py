"""A convolutional masked autoencoder: a small U-shaped network that restores hidden tokens.

The idea is that of ConvNeXt V2's FCMAE (Woo et al., 2023): the pixels of hidden tokens are set to zero, and the mask is
an additional input channel. The pixels of each ``p x p`` patch become channels, so a 32 x 32 image with patch 2 is a
16 x 16 map. A token is a patch, or a square of several patches. On small images it learns faster than a ViT of the same
cost. No convolution is depthwise, because a CPU with bf16 matrix units is fastest at dense 3 x 3 convolutions. Channels
are normalised at each position separately, so that the result for an image does not depend on its batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError
from maskrestore.imaging.resize import resize
from maskrestore.mae.fast.lowered import with_packed_convolutions
from maskrestore.mae.fast.quantized import quantized
from maskrestore.mae.fast.winograd import WinogradConvolution, is_faster

__all__ = ["ConvMAE", "ConvMAEConfig"]


@dataclass(frozen=True, kw_only=True)
class ConvMAEConfig:
    """Shape of a :class:`ConvMAE`.

    Raises ConfigError unless ``widths``, ``encoder_blocks`` and ``decoder_blocks`` have n, n and n - 1 entries, n at
    least 1, ``image_size`` is a multiple of ``patch_size * 2 ** (n - 1)``, ``token_size`` fits between the two, and
    ``output_size`` is 1 to ``image_size``.
    """

    image_size: int = 32
    """Side of the square input in pixels."""
    patch_size: int = 2
    """Side of a patch, which is one place of the finest map, in pixels."""
    token_size: int | None = None
    """Side of a token in pixels, a multiple of ``patch_size`` that divides ``image_size``; ``None``: that of a patch.
    Where few tokens are hidden, maps finer than the tokens restore better."""
    output_size: int | None = None
    """Side in pixels to which the output is shrunk before it gets the size of the input again; ``None``: it is not. The
    details that this removes are made up, and their texture can act as a trigger."""
    widths: tuple[int, ...] = (128, 192, 256)
    """Channels at each scale, the finest (the patches) first; each scale has half the side of the one before."""
    encoder_blocks: tuple[int, ...] = (3, 3, 3)
    """Residual blocks of the encoder at each scale, the finest first; the last entry is the bottom of the U."""
    decoder_blocks: tuple[int, ...] = (3, 3)
    """Residual blocks of the decoder at each scale but the coarsest, the finest first."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean that is subtracted from pixels in [0, 1], for each channel."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Standard deviation that they are divided by, for each channel."""

    def __post_init__(self) -> None:
        scales = len(self.widths)
        if scales < 1 or len(self.encoder_blocks) != scales or len(self.decoder_blocks) != scales - 1:
            raise ConfigError(
                f"widths, encoder_blocks and decoder_blocks need n, n and n-1 entries; "
                f"got {scales}, {len(self.encoder_blocks)} and {len(self.decoder_blocks)}"
            )
        multiple = self.patch_size * 2 ** (scales - 1)
        if self.image_size % multiple:
            raise ConfigError(
                f"image_size must be a multiple of patch_size * 2**(scales-1) = {multiple}, got {self.image_size}"
            )

        if self.token_size is not None and (
            self.token_size < 1 or self.token_size % self.patch_size or self.image_size % self.token_size
        ):
            raise ConfigError(
                f"token_size must be a multiple of patch_size = {self.patch_size} that divides image_size = "
                f"{self.image_size}, got {self.token_size}"
            )
        if self.output_size is not None and not 1 <= self.output_size <= self.image_size:
            raise ConfigError(f"output_size must be 1 to image_size = {self.image_size}, got {self.output_size}")

    @property
    def grid(self) -> int:
        """Tokens along each side."""
        return self.image_size // (self.token_size or self.patch_size)

    @property
    def places(self) -> int:
        """Places along each side of the finest map; a token covers one of them, or a square of several."""
        return self.image_size // self.patch_size


class ResidualBlock(nn.Module):
    """``x + conv2(silu(conv1(norm(x))))``. ``conv2`` is initialised to zero, so a new block is the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(_bias(self.conv2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        # In memory, channels are last already, so the permutations do not move data.
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv2(F.silu(self.conv1(normed)))  # type: ignore[no-any-return]


class ConvMAE(nn.Module):
    """U-shaped convolutional masked autoencoder on the grid of patches. See :class:`ConvMAEConfig`."""

    def __init__(self, config: ConvMAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        pixels = 3 * config.patch_size**2
        self.stem = nn.Conv2d(pixels + 1, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths, config.decoder_blocks, strict=False)
        )
        self.head = nn.Conv2d(widths[0], pixels, 3, padding=1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

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
        """Channels of the widest scale."""
        return max(self.config.widths)

    @property
    def skips_hidden(self) -> bool:
        """False: a convolution computes every token, whatever is hidden."""
        return False

    def in_float32(self) -> ConvMAE:
        """A copy for inference with Winograd convolutions (``winograd.py``), or the network itself if none is faster.

        The copy has its own weights: later training of the network does not change it.
        """
        memo: dict[int, object] = {}
        if self.mean.device.type == "cpu":
            for scale, blocks in [*enumerate(self.encoder), *enumerate(self.decoder)]:
                side = self.config.places // 2**scale
                convolutions = (module for module in blocks.modules() if isinstance(module, nn.Conv2d))
                memo |= {id(each): WinogradConvolution(each) for each in convolutions if is_faster(each, side)}
        return copy.deepcopy(self, memo).eval().requires_grad_(False) if memo else self

    def in_bfloat16(self) -> ConvMAE:
        """A copy for inference with weights cast to bfloat16 once; see :func:`with_packed_convolutions`."""
        return with_packed_convolutions(self)

    def in_int8(self) -> ConvMAE:
        """A copy for inference with convolutions in int8; see :func:`quantized`, also for its ConfigError."""
        return quantized(self, nn.Conv2d)

    def embed(self, images: Tensor) -> Tensor:
        """The part of the work that does not depend on the mask: ``(B, 3, S, S)`` in [0, 1] -> ``(B, 3 p p, h, h)``."""
        return F.pixel_unshuffle((images - self.mean) / self.std, self.config.patch_size)

    def forward(
        self,
        images: Tensor,
        hidden: Tensor,
        *,
        tokens: Tensor | None = None,
        visible: tuple[int, int] | None = None,
    ) -> Tensor:
        """Reconstruct images from their visible tokens.

        images: ``(B, 3, S, S)`` in [0, 1]. hidden: ``(B, g, g)`` bool. tokens: :meth:`embed` of the images, for callers
        that apply many masks to an image. visible: bounds of the number of visible tokens; this network ignores them.

        Returns ``(B, 3, S, S)`` in units of [0, 1], not clipped. Pixels of visible tokens are predicted too, but the
        training loss does not cover them.
        """
        each = self.config.places // self.grid  # (B, g, g) -> (B, h, h)
        shown = (~hidden).repeat_interleave(each, 1).repeat_interleave(each, 2).unsqueeze(1).to(images.dtype)
        tokens = self.embed(images) if tokens is None else tokens
        x = self.stem(torch.cat([tokens * shown, shown], dim=1).contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for blocks, down in zip(self.encoder, self.down, strict=False):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[-1](x)
        for up, skip, blocks in reversed(list(zip(self.up, skips, self.decoder, strict=True))):
            x = blocks(up(x) + skip)
        # (B, 3 p p, h, h) -> (B, 3, S, S)
        output = F.pixel_shuffle(self.head(x).float(), self.config.patch_size) * self.std + self.mean
        side = self.config.output_size
        return output if side is None else resize(resize(output, side, side), *output.shape[-2:])


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
