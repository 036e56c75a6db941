"""Augment batches of images for the training of restorers.

A restorer learns what images look like, not their classes, so changes that would hide a class are allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maskrestore.errors import ConfigError

__all__ = ["AUGMENTATIONS", "Augmentation", "augment", "random_parts"]

_ASPECT = 4 / 3  # largest ratio of the longer to the shorter side of a crop


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes, drawn for each image separately.

    Raises ConfigError for values outside the ranges below. Source of the crop: Szegedy et al., Going Deeper with
    Convolutions, 2015; of the joined images: Yun et al., CutMix, 2019, here always with one straight cut through the
    image.
    """

    crop: float = 1.0
    """Smallest share of the area of an image that is enlarged to the whole, in (0, 1]; 1: no cropping. The aspect ratio
    of a crop is between 3:4 and 4:3."""
    flip: bool = True
    """Whether to mirror images left to right, with probability 1/2."""
    join: float = 0.0
    """Share of images in which the part on one side of a vertical or horizontal line comes from another image, in
    [0, 1]."""
    jitter: float = 0.2
    """Largest relative change of contrast, in [0, 1]; brightness changes by up to half of it, as a share of the range
    of pixels."""
    saturation: float = 0.0
    """Largest relative change of the distance of colours from grey, in [0, 1]."""
    gain: float = 0.0
    """Largest relative change of each channel on its own, in [0, 1]."""
    grey: float = 0.0
    """Share of images that lose their colours, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ConfigError(f"crop must be in (0, 1], got {self.crop}")
        for name in ("join", "jitter", "saturation", "gain", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")


AUGMENTATIONS: dict[str, Augmentation] = {
    "light": Augmentation(),
    "strong": Augmentation(crop=0.35, join=0.25, saturation=0.5, gain=0.1),
    "photographs": Augmentation(join=0.1, saturation=0.4, gain=0.1, grey=0.05),
}
"""Augmentations by name."""


def augment(images: Tensor, config: Augmentation, generator: Generator) -> Tensor:
    """Augment images ``(B, 3, H, W)`` float32 in [0, 1]; returns images of the same shape and range.

    generator: of the CPU, wherever the images are, so that every device draws the same numbers.
    """
    if config.crop < 1:
        images = _cropped(images, config.crop, generator)
    if config.flip:
        images = torch.where(_uniform(images, generator) < 0.5, images.flip(3), images)
    if config.join:
        images = _joined(images, config.join, generator)
    return _recoloured(images, config, generator)


def random_parts(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Cut a random part out of each image and shrink it: ``(B, 3, T, T)`` uint8 -> ``(B, 3, size, size)`` uint8.

    A part is at least ``size`` pixels high and wide, so that it is never enlarged and stays as sharp as images at test
    time. The aspect ratio is between 3:4 and 4:3. ``T`` must be at least ``size``.
    """
    side = images.shape[-1]
    height, stretch, top, left = torch.rand(len(images), 4, generator=generator).unbind(1)
    tall = size + ((side - size) * height).round()
    wide = (tall * _ASPECT ** (2 * stretch - 1)).round().clamp(size, side)
    rows = _shrinking(side, (top * (side - tall + 1)).floor(), tall, size).to(images.device)
    columns = _shrinking(side, (left * (side - wide + 1)).floor(), wide, size).to(images.device)
    pixels = images.float()
    # Two products for each channel: (B, 1, size, T) @ (B, 3, T, T) @ (B, 1, T, size)
    return (rows[:, None] @ pixels @ columns[:, None].mT).round().byte()


def _shrinking(side: int, first: Tensor, length: Tensor, size: int) -> Tensor:
    """Matrices ``(B, size, side)`` that shrink the pixels ``first`` to ``first + length`` of a line to ``size``.

    They interpolate linearly with antialiasing, as ``resize`` does, but with other bounds for each line.
    """
    scale = (length / size)[:, None, None]  # at least 1
    wanted = (torch.arange(size) + 0.5)[None, :, None] * scale
    given = torch.arange(side)[None, None] + 0.5 - first[:, None, None]
    weights = (1 - (given - wanted).abs() / scale).clamp(min=0)
    weights = weights * ((given > 0) & (given < length[:, None, None]))
    return weights / weights.sum(2, keepdim=True)


def _uniform(images: Tensor, generator: Generator, channels: int = 1) -> Tensor:
    """Random numbers ``(B, channels, 1, 1)`` in [0, 1)."""
    return torch.rand(len(images), channels, 1, 1, generator=generator).to(images.device)


def _cropped(images: Tensor, smallest: float, generator: Generator) -> Tensor:
    """Enlarge a random part of each image to the whole, with bilinear interpolation."""
    area, aspect, top, left = torch.rand(4, len(images), generator=generator).to(images.device)
    side = (smallest + (1 - smallest) * area).sqrt()
    stretch = torch.exp((aspect - 0.5) * math.log(_ASPECT))  # square root of the aspect ratio
    height, width = (side / stretch).clamp(max=1), (side * stretch).clamp(max=1)
    # Coordinates run from -1 to 1 between the edges; a crop lies inside, so its centre keeps half its side away from
    # them.
    zero = torch.zeros_like(side)
    columns = torch.stack([width, zero, (2 * left - 1) * (1 - width)], 1)
    rows = torch.stack([zero, height, (2 * top - 1) * (1 - height)], 1)
    grid = F.affine_grid(torch.stack([columns, rows], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _joined(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Replace a quarter to three quarters of some images with that part of the image before them in the batch."""
    height, width = images.shape[-2:]
    chosen, upright, cut = (_uniform(images, generator) for _ in range(3))
    down = torch.arange(height, device=images.device).view(-1, 1) / height
    across = torch.arange(width, device=images.device) / width
    place = torch.where(upright < 0.5, across, down)  # (B, 1, H, W)
    return torch.where((chosen < share) & (place >= 0.25 + 0.5 * cut), images.roll(1, 0), images)


def _recoloured(images: Tensor, config: Augmentation, generator: Generator) -> Tensor:
    if config.jitter:
        contrast = 1 + config.jitter * (2 * _uniform(images, generator) - 1)
        brightness = config.jitter * (_uniform(images, generator) - 0.5)
        images = ((images - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    if config.saturation:
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (1 + config.saturation * (2 * _uniform(images, generator) - 1))
    if config.gain:
        images = images * (1 + config.gain * (2 * _uniform(images, generator, 3) - 1))
    if config.grey:
        images = torch.where(_uniform(images, generator) < config.grey, images.mean(1, keepdim=True), images)
    return images.clamp(0, 1)
