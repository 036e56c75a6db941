"""Filters and geometric copies of images, computed so that a result does not depend on its batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Upscale", "affine", "bicubic", "gaussian_blur", "median", "mirrored", "rescaled", "shifted"]

Upscale = Callable[[Tensor, int, int], Tensor]
"""Super-resolution: ``(C, h, w)`` in [0, 1], height and width -> ``(C, height, width)`` in [0, 1]."""


def gaussian_blur(images: Tensor, size: int, sigma: float) -> Tensor:
    """Blur ``(B, C, H, W)`` images with a separable Gaussian; the result has the same shape, in [0, 1].

    size: side of the kernel, odd; sigma: standard deviation, both in pixels. Borders are mirrored without repeating
    the edge pixel. Computed as a sum of shifted copies instead of a convolution, so that the result is bit-identical
    regardless of batch composition.
    """
    radius = size // 2
    taps = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    for dim in (-2, -1):
        copies = zip(shifted(images, dim, radius), taps, strict=True)
        images = sum((copy * (tap / sum(taps)) for copy, tap in copies), torch.zeros_like(images))
    return images.clamp(0, 1)


def shifted(images: Tensor, dim: int, radius: int) -> list[Tensor]:
    """Return ``2 radius + 1`` copies of the same shape, shifted by ``-radius ... radius`` pixels along ``dim``.

    The border is mirrored without repeating the edge pixel: ``2 1 | 0 1 2 ... n-1 | n-2 n-3``.
    """
    side = images.shape[dim]
    padded = images.index_select(dim, mirrored(torch.arange(-radius, side + radius, device=images.device), side))
    return [padded.narrow(dim, start, side) for start in range(2 * radius + 1)]


def mirrored(index: Tensor, side: int) -> Tensor:
    """Indices in 0 to side - 1: those outside are mirrored, as often as needed, without repeating the edge."""
    period = max(1, 2 * (side - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index).clamp(max=side - 1)


def median(images: Tensor, size: int) -> Tensor:
    """Take the median over ``size x size`` pixels of each channel, ``size`` odd; borders are mirrored.

    ``(B, C, H, W)`` -> the same shape.
    """
    radius = size // 2
    window = [copy for rows in shifted(images, -2, radius) for copy in shifted(rows, -1, radius)]
    return torch.stack(window).median(dim=0).values


def affine(
    image: Tensor,
    *,
    degrees: float = 0.0,
    scale: float = 1.0,
    down: float = 0.0,
    right: float = 0.0,
) -> Tensor:
    """Rotate ``(C, H, W)`` counter-clockwise about its centre, scale, then shift. Returns the same shape, in [0, 1].

    down, right: shift as a share of the height and of the width. Interpolation is bilinear; pixels from outside the
    image are black.
    """
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    # Source of each output pixel, in pixels from the centre: undo the shift, then rotate the other way.
    y = (torch.arange(height) - (height - 1) / 2 - down * height).unsqueeze(1)
    x = torch.arange(width) - (width - 1) / 2 - right * width
    source_x, source_y = cos * x - sin * y, sin * x + cos * y  # (H, W) each
    grid = torch.stack([source_x * 2 / width, source_y * 2 / height], dim=-1)
    return F.grid_sample(image[None], grid[None].to(image), align_corners=False)[0].clamp(0, 1)


def bicubic(image: Tensor, height: int, width: int) -> Tensor:
    """Upscale ``(C, h, w)`` to ``(C, height, width)`` with bicubic interpolation, clipped to [0, 1]."""
    large = F.interpolate(image[None], (height, width), mode="bicubic", align_corners=False)
    return large[0].clamp(0, 1)


def rescaled(image: Tensor, scale: float, upscale: Upscale = bicubic) -> Tensor:
    """Downscale ``(C, H, W)`` in [0, 1] and upscale it again: fine detail goes.

    scale: share of each side after downscaling, which is bilinear without antialiasing.
    """
    height, width = image.shape[-2:]
    size = (max(1, int(height * scale)), max(1, int(width * scale)))
    small = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    return upscale(small, height, width)
