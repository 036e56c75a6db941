"""Blur: a Gaussian blur with a small kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maskrestore.defense.streams import Key
from maskrestore.imaging.filters import gaussian_blur
from maskrestore.lab.baselines.base import TransformDefense, check

__all__ = ["BlurConfig"]


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
