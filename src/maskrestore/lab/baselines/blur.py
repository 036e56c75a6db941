"""Blur: a Gaussian blur with a small kernel."""

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
    Departures: none known. The paper does not say how borders are padded; here they are mirrored, as in torchvision's
    GaussianBlur.
    """

    size: int = 3
    """Side of the kernel in pixels, odd."""
    sigma: float = 0.5
    """Standard deviation of the kernel in pixels."""

    def __post_init__(self) -> None:
        check(self.size >= 1 and self.size % 2 == 1, "size", "odd and at least 1", self.size)
        check(0 < self.sigma < math.inf, "sigma", "positive", self.sigma)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. It is deterministic: ``key`` is not used."""
        return TransformDefense(lambda images, _: gaussian_blur(images, self.size, self.sigma), key=key)


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
    period = max(1, 2 * (side - 1))
    index = torch.arange(-radius, side + radius).remainder(period)
    padded = images.index_select(dim, torch.minimum(index, period - index).clamp(max=side - 1))
    return [padded.narrow(dim, start, side) for start in range(2 * radius + 1)]
