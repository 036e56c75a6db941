"""Attacks that lay fixed patches over an image: BadNets, Blended and the four corners are of this kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.attacks.base import AttackConfig, poisoned_label_rule
from maskrestore.errors import ConfigError, InvalidImageError

__all__ = ["OverlayAttack", "Patch"]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A small picture and where it goes."""

    pixels: Tensor
    """``(3, h, w)`` in [0, 1]."""
    opacity: Tensor
    """``(h, w)`` in [0, 1]: 0 leaves the image as it is, 1 replaces it."""
    position: tuple[int, int]
    """As in ``AttackConfig``."""

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Return row and column of the upper left pixel in an image of ``height x width`` pixels.

        Raises ConfigError when the patch does not lie inside.
        """
        size = self.opacity.shape
        row, column = (
            place if place >= 0 else side + place - extent + 1
            for place, side, extent in zip(self.position, (height, width), size, strict=True)
        )
        if not (0 <= row <= height - size[0] and 0 <= column <= width - size[1]):
            raise ConfigError(
                f"a trigger of {size[0]}x{size[1]} pixels at {self.position} does not lie inside an image of "
                f"{height}x{width}"
            )
        return row, column


class OverlayAttack:
    """Lays patches over the image, each with its own opacity."""

    def __init__(self, name: str, config: AttackConfig, patches: Sequence[Patch]) -> None:
        self._name = name
        self._config = config
        self._patches = tuple(patches)
        self._canvas(config.image_size, config.image_size)  # fails early when a patch lies outside

    @property
    def name(self) -> str:
        """The attack with its variant."""
        return self._name

    def apply(self, images: Tensor) -> Tensor:
        """Lay the patches over ``(B, C, H, W)`` images in [0, 1]; on grey ones, their mean over the channels.

        Raises InvalidImageError for another rank or number of channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InvalidImageError(f"expected images (B, 1 or 3, H, W), got {tuple(images.shape)}")
        pixels, opacity = (part.to(images) for part in self._canvas(*images.shape[-2:]))
        if images.shape[1] == 1:
            pixels = pixels.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
        return torch.where(opacity > 0, images * (1 - opacity) + pixels * opacity, images)

    def poisoned_label(self, labels: Tensor) -> Tensor:
        """Return the ``(B,)`` labels that the attacker wants."""
        return poisoned_label_rule(labels, self._config)

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: False for images that have the wanted label anyway."""
        return self.poisoned_label(labels) != labels

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True under a patch of any opacity."""
        return self._canvas(height, width)[1] > 0

    def _canvas(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return pixels ``(3, H, W)`` and opacity ``(H, W)`` of all patches together."""
        pixels, opacity = torch.zeros(3, height, width), torch.zeros(height, width)
        for patch in self._patches:
            row, column = patch.corner(height, width)
            rows = slice(row, row + patch.opacity.shape[0])
            columns = slice(column, column + patch.opacity.shape[1])
            pixels[:, rows, columns] = patch.pixels
            opacity[rows, columns] = patch.opacity
        return pixels, opacity


def checkerboard(height: int, width: int) -> Tensor:
    """Return ``(3, height, width)``: white where row + column is even, black elsewhere."""
    white = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0
    return white.float().expand(3, -1, -1)


def random_pixels(height: int, width: int, seed: int) -> Tensor:
    """Return ``(3, height, width)`` of independent random bytes, as float32 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).float() / 255


def parse_size(text: str, name: str) -> tuple[int, int]:
    """Parse "3x3" into rows and columns. Raises ConfigError; ``name`` is the attack, for the message."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{name} needs a size such as 3x3 (rows x columns), got {text!r}")
    return int(parts[0]), int(parts[1])
