"""The test-time transformations of the BDMAE paper's appendix F.5 (figure A.4) without a separate module.

Source: Gao et al. 2019, Sarkar et al. 2020, Qiu et al. 2021 (DeepSweep), as summarised in that appendix. The paper
does not give their strengths. The defaults are chosen by this project; they are mild unless the name says strong.
Departures: DeepSweep fine-tunes the classifier first; here it is a black box, so nothing is fine-tuned.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskrestore.defense.streams import Key, Stream, gaussian_noise
from maskrestore.imaging.filters import affine, median
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.base import TransformDefense, check, one_by_one

__all__ = [
    "AffineConfig",
    "ContrastConfig",
    "DownscaleConfig",
    "FlipConfig",
    "GammaConfig",
    "JpegConfig",
    "MedianConfig",
    "NoiseConfig",
    "jpeg",
]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Adds Gaussian noise to every value and clips to [0, 1]."""

    std: float = 0.02
    """Standard deviation for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        check(0 < self.std < math.inf, "std", "positive", self.std)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. ``key`` determines the noise."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            return (image + self.std * gaussian_noise(stream, 0, shape=tuple(image.shape))).clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Multiplies the difference of every value from the image's mean by a random factor and clips to [0, 1]."""

    low: float = 0.8
    high: float = 1.2
    """The factor is uniform between ``low`` and ``high``."""

    def __post_init__(self) -> None:
        check(0 <= self.low <= self.high < math.inf, "low, high", "0 <= low <= high", (self.low, self.high))

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. ``key`` determines the factors."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            (factor,) = _between(stream, (self.low, self.high))
            mean = image.mean()
            return (mean + (image - mean) * factor).clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class GammaConfig:
    """Raises every value to a random power."""

    low: float = 0.8
    high: float = 1.2
    """The power is uniform between ``low`` and ``high``."""

    def __post_init__(self) -> None:
        check(0 < self.low <= self.high < math.inf, "low, high", "0 < low <= high", (self.low, self.high))

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. ``key`` determines the powers."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            (power,) = _between(stream, (self.low, self.high))
            return image.pow(power)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class FlipConfig:
    """Mirrors every image left to right. It has no settings."""

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. It is deterministic: ``key`` is not used."""
        return TransformDefense(lambda images, _: images.flip(-1), key=key)


@dataclass(frozen=True, kw_only=True)
class DownscaleConfig:
    """Downscales and upscales again, both bilinear; downscaling uses antialiasing."""

    factor: float = 0.75
    """Share of each side after downscaling, in (0, 1)."""

    def __post_init__(self) -> None:
        check(0 < self.factor < 1, "factor", "in (0, 1)", self.factor)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. It is deterministic: ``key`` is not used."""

        def change(image: Tensor, _: Stream) -> Tensor:
            height, width = image.shape[-2:]
            small = resize(image[None], max(1, round(height * self.factor)), max(1, round(width * self.factor)))
            return resize(small, height, width)[0].clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class AffineConfig:
    """Rotates, scales and shifts at random. Pixels from outside the image are black."""

    degrees: float = 15.0
    """The angle in degrees is uniform in [-degrees, degrees]; 0 to 180."""
    shift: float = 0.1
    """The shift along each axis, as a share of the side, is uniform in [-shift, shift]; 0 to 1."""
    zoom: float = 0.1
    """The scale is uniform in [1 - zoom, 1 + zoom]; 0 or more, below 1."""

    def __post_init__(self) -> None:
        check(0 <= self.degrees <= 180, "degrees", "in [0, 180]", self.degrees)
        check(0 <= self.shift <= 1, "shift", "in [0, 1]", self.shift)
        check(0 <= self.zoom < 1, "zoom", "in [0, 1)", self.zoom)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. ``key`` determines the angles, scales and shifts."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            spans = [(-self.degrees, self.degrees), (1 - self.zoom, 1 + self.zoom), *[(-self.shift, self.shift)] * 2]
            degrees, scale, down, right = _between(stream, *spans)
            return affine(image, degrees=degrees, scale=scale, down=down, right=right)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class MedianConfig:
    """Replaces every value by the median of its neighbourhood."""

    size: int = 3
    """Side of the square window in pixels, odd."""

    def __post_init__(self) -> None:
        check(self.size >= 1 and self.size % 2 == 1, "size", "odd and at least 1", self.size)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. It is deterministic: ``key`` is not used."""
        return TransformDefense(lambda images, _: median(images, self.size), key=key)


@dataclass(frozen=True, kw_only=True)
class JpegConfig:
    """Compresses as JPEG and decompresses."""

    quality: int = 50
    """Pillow's scale, 1 (worst) to 95."""

    def __post_init__(self) -> None:
        check(1 <= self.quality <= 95, "quality", "in 1..95", self.quality)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. It is deterministic: ``key`` is not used."""
        return TransformDefense(lambda images, _: torch.stack([jpeg(x, self.quality) for x in images]), key=key)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Round ``(C, H, W)`` in [0, 1] to 8 bits, encode and decode it as JPEG with Pillow; the same shape, in [0, 1]."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.view(image.shape[1], image.shape[2], -1).permute(2, 0, 1).float() / 255  # (H, W, C) -> (C, H, W)


def _between(stream: Stream, *spans: tuple[float, float]) -> list[float]:
    """Draw one uniform number from each span (low, high)."""
    numbers = stream.uniform(0, shape=(len(spans),)).tolist()
    return [low + (high - low) * number for number, (low, high) in zip(numbers, spans, strict=True)]
