"""Blur: a small Gaussian over the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.streams import Key
from maskrestore.lab.baselines.base import TransformDefense, check

__all__ = ["BlurConfig", "gaussian_blur", "shifted"]


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """Gaussian blur, the same for every image.

    Source: Li et al., Backdoor Attack in the Physical World, 2021; settings of the BDMAE paper, appendix C: a 3x3
    kernel with a standard deviation of 0.5 (weak) or 1.0 (strong).
    Departures: none known; the paper does not say how borders are filled, here as in torchvision's GaussianBlur.
    """

    size: int = 3
    """Side of the kernel in pixels, odd."""
    sigma: float = 0.5
    """Standard deviation of the kernel in pixels."""

    def __post_init__(self) -> None:
        check(self.size >= 1 and self.size % 2 == 1, "size", "odd and at least 1", self.size)
        check(0 < self.sigma < math.inf, "sigma", "positive", self.sigma)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; there is no randomness."""
        return TransformDefense(lambda images, _: gaussian_blur(images, self.size, self.sigma), key=key)


def gaussian_blur(images: Tensor, size: int, sigma: float) -> Tensor:
    """Separable Gaussian; borders mirrored without repeating the edge pixel. ``(B, C, H, W)`` -> the same shape.

    A sum of shifted copies rather than a convolution, so that an image gets the same bits in every batch.
    """
    radius = size // 2
    taps = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    for dim in (-2, -1):
        copies = zip(shifted(images, dim, radius), taps, strict=True)
        images = sum((copy * (tap / sum(taps)) for copy, tap in copies), torch.zeros_like(images))
    return images.clamp(0, 1)


def shifted(images: Tensor, dim: int, radius: int) -> list[Tensor]:
    """Copies shifted by ``-radius ... radius`` pixels along ``dim``: ``2 radius + 1`` tensors of the same shape.

    Beyond the border the image is mirrored, without repeating the edge pixel: ``2 1 | 0 1 2 ... n-1 | n-2 n-3``.
    """
    side = images.shape[dim]
    period = max(1, 2 * (side - 1))
    index = torch.arange(-radius, side + radius).remainder(period)
    padded = images.index_select(dim, torch.minimum(index, period - index).clamp(max=side - 1))
    return [padded.narrow(dim, start, side) for start in range(2 * radius + 1)]
