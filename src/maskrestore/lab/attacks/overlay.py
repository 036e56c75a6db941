"""Attacks that lay fixed patches over an image: BadNets, Blended and the four corners are of this kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, TriggerAttack, checked_images

__all__ = ["OverlayAttack", "Patch", "checkerboard", "parse_patch", "parse_share", "parse_size", "random_pixels"]


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


class OverlayAttack(TriggerAttack):
    """Lays patches over the image, each with its own opacity."""

    def __init__(
        self, name: str, config: AttackConfig, patches: Sequence[Patch], training: TrainingHooks | None = None
    ) -> None:
        super().__init__(name, config, training)
        self._patches = tuple(patches)
        self._canvas(config.image_size, config.image_size)  # fails early when a patch lies outside

    def apply(self, images: Tensor) -> Tensor:
        """Lay the patches over ``(B, C, H, W)`` images in [0, 1]; on grey ones, their mean over the channels.

        Raises InvalidImageError for another rank or number of channels.
        """
        pixels, opacity = (part.to(images) for part in self._canvas(*checked_images(images).shape[-2:]))
        if images.shape[1] == 1:
            pixels = pixels.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
        return torch.where(opacity > 0, images * (1 - opacity) + pixels * opacity, images)

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


def parse_patch(text: str, name: str, seed: int) -> Tensor:
    """Return the ``(3, h, w)`` pixels of a patch such as "3x3-white", "2x2-color" or "3x3-checkerboard".

    Raises ConfigError or UnknownNameError for another text; ``name`` is the attack, for the message.
    """
    size, _, colour = text.partition("-")
    rows, columns = parse_size(size, name)
    if colour == "white":
        return torch.ones(3, rows, columns)
    if colour == "color":
        return random_pixels(rows, columns, seed)
    if colour == "checkerboard":
        return checkerboard(rows, columns)
    raise UnknownNameError("colour of a patch", colour, ("white", "color", "checkerboard"))


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


def parse_share(text: str, default: float, name: str) -> float:
    """Parse a number above 0 and at most 1, ``default`` for an empty text. Raises ConfigError."""
    try:
        share = float(text or default)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"{name} needs an opacity above 0 and at most 1 after the @, got {text!r}")
    return share
