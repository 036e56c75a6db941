"""The test-time transformations of the BDMAE paper's appendix F.5 (figure A.4) that are not defenses by name.

Source: Gao et al. 2019, Sarkar et al. 2020, Qiu et al. 2021 (DeepSweep), as summed up in that appendix. The paper gives
no strengths; the ones here are the project's, mild unless the name says strong. Departures: none of these fine-tunes
the classifier first, as DeepSweep does, because it is a black box.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.base import TransformDefense, check, one_by_one
from maskrestore.lab.baselines.blur import shifted

__all__ = [
    "AffineConfig",
    "ContrastConfig",
    "DownscaleConfig",
    "FlipConfig",
    "GammaConfig",
    "JpegConfig",
    "MedianConfig",
    "NoiseConfig",
    "affine",
    "gaussian_noise",
    "jpeg",
    "median",
]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Add Gaussian noise to every value and clip."""

    std: float = 0.02
    """Standard deviation, in units of [0, 1] pixels."""

    def __post_init__(self) -> None:
        check(0 < self.std < math.inf, "std", "positive", self.std)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; ``key`` decides the noise."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            return (image + self.std * gaussian_noise(stream, 0, shape=tuple(image.shape))).clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Multiply the distance of every value from the image's mean by a random factor."""

    low: float = 0.8
    high: float = 1.2
    """The factor is uniform between these two."""

    def __post_init__(self) -> None:
        check(0 <= self.low <= self.high < math.inf, "low, high", "0 <= low <= high", (self.low, self.high))

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; ``key`` decides the factors."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            (factor,) = _between(stream, (self.low, self.high))
            mean = image.mean()
            return (mean + (image - mean) * factor).clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class GammaConfig:
    """Raise every value to a random power."""

    low: float = 0.8
    high: float = 1.2
    """The power is uniform between these two."""

    def __post_init__(self) -> None:
        check(0 < self.low <= self.high < math.inf, "low, high", "0 < low <= high", (self.low, self.high))

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; ``key`` decides the powers."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            (power,) = _between(stream, (self.low, self.high))
            return image.pow(power)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class FlipConfig:
    """Mirror left and right, always; there is nothing to set."""

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; there is no randomness."""
        return TransformDefense(lambda images, _: images.flip(-1), key=key)


@dataclass(frozen=True, kw_only=True)
class DownscaleConfig:
    """Shrink and enlarge again, both bilinear, with antialiasing on the way down."""

    factor: float = 0.75
    """Share of each side that is left in between."""

    def __post_init__(self) -> None:
        check(0 < self.factor < 1, "factor", "in (0, 1)", self.factor)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; there is no randomness."""

        def change(image: Tensor, _: Stream) -> Tensor:
            height, width = image.shape[-2:]
            small = resize(image[None], max(1, round(height * self.factor)), max(1, round(width * self.factor)))
            return resize(small, height, width)[0].clamp(0, 1)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class AffineConfig:
    """Rotate, scale and shift at random; what comes from outside the image is black."""

    degrees: float = 15.0
    """The angle is uniform between minus and plus this."""
    shift: float = 0.1
    """The shift along each axis is uniform between minus and plus this share of the side."""
    zoom: float = 0.1
    """The scale is uniform between 1 minus and 1 plus this."""

    def __post_init__(self) -> None:
        check(0 <= self.degrees <= 180, "degrees", "in [0, 180]", self.degrees)
        check(0 <= self.shift <= 1, "shift", "in [0, 1]", self.shift)
        check(0 <= self.zoom < 1, "zoom", "in [0, 1)", self.zoom)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; ``key`` decides the angles, scales and shifts."""

        def change(image: Tensor, stream: Stream) -> Tensor:
            spans = [(-self.degrees, self.degrees), (1 - self.zoom, 1 + self.zoom), *[(-self.shift, self.shift)] * 2]
            degrees, scale, down, right = _between(stream, *spans)
            return affine(image, degrees=degrees, scale=scale, down=down, right=right)

        return TransformDefense(lambda images, secret: one_by_one(images, secret, change), key=key)


@dataclass(frozen=True, kw_only=True)
class MedianConfig:
    """Replace every value by the median of its surroundings."""

    size: int = 3
    """Side of the square window in pixels, odd."""

    def __post_init__(self) -> None:
        check(self.size >= 1 and self.size % 2 == 1, "size", "odd and at least 1", self.size)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; there is no randomness."""
        return TransformDefense(lambda images, _: median(images, self.size), key=key)


@dataclass(frozen=True, kw_only=True)
class JpegConfig:
    """Compress as JPEG and decompress."""

    quality: int = 50
    """Pillow's scale, 1 (worst) to 95."""

    def __post_init__(self) -> None:
        check(1 <= self.quality <= 95, "quality", "in 1..95", self.quality)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense; there is no randomness."""
        return TransformDefense(lambda images, _: torch.stack([jpeg(x, self.quality) for x in images]), key=key)


def gaussian_noise(stream: Stream, *path: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers; the same ``path`` (see :class:`Stream`) always gives the same ones."""
    uniform = stream.uniform(*path, shape=shape).double() + 2**-25  # in (0, 1): never infinite
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.float()


def affine(image: Tensor, *, degrees: float, scale: float, down: float, right: float) -> Tensor:
    """Turn ``(C, H, W)`` counter-clockwise about its centre, scale, then shift by shares of the sides; bilinear."""
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    # From each output pixel back to its source, in pixels from the centre: undo the shift, then turn the other way.
    y = (torch.arange(height) - (height - 1) / 2 - down * height).unsqueeze(1)
    x = torch.arange(width) - (width - 1) / 2 - right * width
    source_x, source_y = cos * x - sin * y, sin * x + cos * y  # (H, W) each
    grid = torch.stack([source_x * 2 / width, source_y * 2 / height], dim=-1)
    return F.grid_sample(image[None], grid[None].to(image.dtype), align_corners=False)[0].clamp(0, 1)


def median(images: Tensor, size: int) -> Tensor:
    """Median over ``size x size`` pixels of each channel, borders mirrored. ``(B, C, H, W)`` -> the same shape."""
    radius = size // 2
    window = [copy for rows in shifted(images, -2, radius) for copy in shifted(rows, -1, radius)]
    return torch.stack(window).median(dim=0).values


def jpeg(image: Tensor, quality: int) -> Tensor:
    """``(C, H, W)`` in [0, 1], rounded to 8 bits, through Pillow's JPEG encoder and decoder."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.view(image.shape[1], image.shape[2], -1).permute(2, 0, 1).float() / 255  # (H, W, C) -> (C, H, W)


def _between(stream: Stream, *spans: tuple[float, float]) -> list[float]:
    """One uniform number from each span."""
    numbers = stream.uniform(0, shape=(len(spans),)).tolist()
    return [low + (high - low) * number for number, (low, high) in zip(numbers, spans, strict=True)]
