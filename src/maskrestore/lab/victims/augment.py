"""Augmentation of training images, batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.errors import ConfigError

__all__ = ["Augmentation", "augment"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes that keep the label, drawn for each image. Raises ConfigError for a setting out of range."""

    shift: int = 4
    """Largest translation in pixels, in each direction. The border is filled by reflection."""
    flip: bool = True
    """Mirror left to right with probability 0.5."""
    cutout: int = 0
    """Side in pixels of a square that is set to mid-grey, at a random position; 0 for none."""
    jitter: float = 0.0
    """Largest relative change of contrast, in [0, 1). Brightness changes by at most half of it, for pixels in
    [0, 1]."""

    def __post_init__(self) -> None:
        if self.shift < 0 or self.cutout < 0 or not 0 <= self.jitter < 1:
            raise ConfigError(f"shift and cutout must be at least 0 and jitter in [0, 1), got {self}")


def augment(images: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Augment ``(B, 3, H, W)`` uint8 images. Returns float32 in [0, 1], same shape, in channels-last memory format.

    generator: a CPU generator on every device, so that all devices draw the same changes.
    """
    moved = _shift_and_flip(images, config, generator).float() / 255
    if config.jitter > 0:
        contrast, brightness = (2 * torch.rand(2, len(moved), 1, 1, 1, generator=generator) - 1).to(moved)
        centre = moved.mean((1, 2, 3), keepdim=True)
        moved = (moved - centre) * (1 + config.jitter * contrast) + centre + config.jitter / 2 * brightness
        moved = moved.clamp(0, 1)
    if config.cutout > 0:
        moved = torch.where(_square(moved, config.cutout, generator).to(moved.device), 0.5, moved)
    return moved.contiguous(memory_format=torch.channels_last)


def _shift_and_flip(images: Tensor, config: Augmentation, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    shift = config.shift
    # reflection padding does not support uint8
    padded = F.pad(images.float(), (shift,) * 4, mode="reflect") if shift else images
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = top + torch.arange(height)  # (B, H)
    columns = left + torch.arange(width)  # (B, W)
    if config.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    places = (torch.arange(count).view(-1, 1, 1), rows[:, :, None], columns[:, None, :])
    batch, rows, columns = (place.to(images.device) for place in places)
    moved = padded.permute(0, 2, 3, 1)[batch, rows, columns]  # (B, H, W, 3)
    return moved.permute(0, 3, 1, 2)


def _square(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return ``(B, 1, H, W)`` bool: True in a square around a random pixel. Part of it may lie outside the image."""
    count, _, height, width = images.shape
    row = torch.randint(0, height, (count, 1, 1), generator=generator)
    column = torch.randint(0, width, (count, 1, 1), generator=generator)
    in_rows = (torch.arange(height).view(1, -1, 1) - row + side // 2).clamp(-1, side) % (side + 1)
    in_columns = (torch.arange(width).view(1, 1, -1) - column + side // 2).clamp(-1, side) % (side + 1)
    return ((in_rows < side) & (in_columns < side))[:, None]
