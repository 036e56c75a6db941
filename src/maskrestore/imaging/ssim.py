"""Structural similarity (SSIM) of two images as a map over pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ssim_map"]

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004 with data range 1

_PIXELS_AT_A_TIME = 2**19
"""Of each image: the moments of a photograph take ten times its memory."""


def ssim_map(first: Tensor, second: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """SSIM at every pixel, averaged over channels.

    first, second: ``(..., C, H, W)`` float32 in [0, 1]; the dimensions before the channels are broadcast. window: side
    of the Gaussian window in pixels, odd. sigma: standard deviation of the window in pixels. Returns ``(..., H, W)`` in
    [-1, 1]; 1 means that the two windows around the pixel are equal.

    Images are mirrored at their borders with the edge pixel repeated, so the map has the size of the image, and images
    smaller than the window work too. The result equals scikit-image's ``structural_similarity(...,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True)``.

    Source: Wang et al. 2004; appendix D of the paper (Eq. A.3).
    """
    height, width = first.shape[-2:]
    rows = max(window, _PIXELS_AT_A_TIME // width)
    if height <= rows:
        return _ssim(first, second, window, sigma)
    # Large images in strips, each with the rows around it that its windows reach.
    strips = []
    for start in range(0, height, rows):
        above = max(0, start - window)
        part = (..., slice(above, start + rows + window), slice(None))
        strips.append(_ssim(first[part], second[part], window, sigma)[..., start - above : start - above + rows, :])
    return torch.cat(strips, dim=-2)


def _ssim(first: Tensor, second: Tensor, window: int, sigma: float) -> Tensor:
    # Subtracting 1/2 reduces the cancellation in the float32 variances below; the means get it back afterwards.
    a, b = first - 0.5, second - 0.5
    # One moment at a time, to need less memory for large images.
    mean_a, mean_b, square_a, square_b, product = (
        _blur(moment, window, sigma) for moment in (a, b, a * a, b * b, a * b)
    )
    variance_a, variance_b = square_a - mean_a * mean_a, square_b - mean_b * mean_b
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a * mean_a + mean_b * mean_b + _C1) * (variance_a + variance_b + _C2)
    )
    mean: Tensor = similarity.mean(dim=-3)  # (..., C, H, W) -> (..., H, W)
    return mean


def _blur(values: Tensor, window: int, sigma: float) -> Tensor:
    """Separable Gaussian blur over the last two dimensions.

    It adds shifted copies instead of calling a convolution: every pixel is then computed by the same sequence of
    multiplications and additions, so the result is bit-identical regardless of batch composition.
    """
    radius = window // 2
    taps = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    total = sum(taps)
    for dim in (-2, -1):
        size = values.shape[dim]
        padded = values.index_select(dim, _mirrored(size, radius, values.device))
        blurred = padded.narrow(dim, 0, size) * (taps[0] / total)
        for start, tap in enumerate(taps[1:], start=1):
            blurred.add_(padded.narrow(dim, start, size), alpha=tap / total)
        values = blurred
    return values


def _mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """Indices that mirror ``size`` pixels by ``radius`` on both sides: ``... 1 0 | 0 1 ... n-1 | n-1 n-2 ...``."""
    index = torch.arange(-radius, size + radius, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
