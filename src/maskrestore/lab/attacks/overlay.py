"""Attacks that overlay fixed patches, such as BadNets, Blended and Corners."""

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
    """The pixels, opacity and position of a trigger."""

    pixels: Tensor
    """``(3, h, w)`` in [0, 1]."""
    opacity: Tensor
    """``(h, w)`` in [0, 1]: 0 keeps the image, 1 replaces it."""
    position: tuple[int, int]
    """Row and column, as in ``AttackConfig``."""

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Return row and column of the patch's upper left pixel in an image of ``height x width`` pixels.

        Raises ConfigError when the patch does not lie inside the image.
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
    """Overlays patches, each with its own opacity."""

    def __init__(
        self, name: str, config: AttackConfig, patches: Sequence[Patch], training: TrainingHooks | None = None
    ) -> None:
        """Raises ConfigError when a patch does not lie inside an image of ``config.image_size``."""
        super().__init__(name, config, training)
        self._patches = tuple(patches)
        self._canvas(config.image_size, config.image_size)  # fail early when a patch lies outside the image

    def apply(self, images: Tensor) -> Tensor:
        """Overlay the patches on ``(B, C, H, W)`` images in [0, 1]. Grey images get the mean of their channels.

        Later patches cover earlier ones. Raises InvalidImageError for another rank or number of channels, and
        ConfigError when a patch does not lie inside the images.
        """
        pixels, opacity = (part.to(images) for part in self._canvas(*checked_images(images).shape[-2:]))
        if images.shape[1] == 1:
            pixels = pixels.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
        return torch.where(opacity > 0, images * (1 - opacity) + pixels * opacity, images)

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True where the opacity is above 0. Raises ConfigError as ``apply`` does."""
        return self._canvas(height, width)[1] > 0

    def _canvas(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the combined pixels ``(3, H, W)`` and opacity ``(H, W)`` of all patches."""
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

    ``seed`` determines the random colours of "color". ``name`` is the attack's, for error messages. Raises ConfigError
    for another size and UnknownNameError for another colour.
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
    """Return ``(3, height, width)`` float32 in [0, 1]: independent random bytes, divided by 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).float() / 255


def parse_size(text: str, name: str) -> tuple[int, int]:
    """Parse "3x3" into rows and columns. Raises ConfigError for another text, naming the attack ``name``."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{name} needs a size such as 3x3 (rows x columns), got {text!r}")
    return int(parts[0]), int(parts[1])


def parse_share(text: str, default: float, name: str) -> float:
    """Parse a number above 0 and at most 1; an empty text gives ``default``. Raises ConfigError for another text."""
    try:
        share = float(text or default)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"{name} needs a number above 0 and at most 1 after the @, got {text!r}")
    return share
