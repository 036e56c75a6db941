"""Show pictures of any shape to a classifier that takes one size, and put what was restored back into the picture.

A photograph is purified at the size at which the classifier sees it, so a picture of 12 megapixels costs what a small
one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize

__all__ = ["Convention", "View"]

Convention = Literal["crop", "squash", "letterbox"]

_LONGEST = 8
"""Of a picture that is this many times longer than the view, the ends are cut off before it is resized. Otherwise a
line of pixels would be enlarged to a picture that no memory holds."""


@dataclass(frozen=True)
class _Box:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor) -> Tensor:
        """That part of ``(..., H, W)``, as a view of its memory."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, kw_only=True)
class View:
    """The size at which a classifier sees pictures, and how they get it.

    - ``crop``: the picture is resized until it just covers the view, and its centre is cut out, as training recipes for
      ImageNet do. ``crop_share`` 0.875 is their "resize to 256, crop 224".
    - ``squash``: both sides are resized, whatever the shape.
    - ``letterbox``: the picture is resized until it just fits, and bars of ``fill`` are added on both sides.

    Raises ConfigError.
    """

    height: int
    width: int
    convention: Convention = "crop"
    crop_share: float = 1.0
    """Of ``crop``: side of the view as a share of the side of the resized picture, in (0, 1]."""
    fill: float = 0.0
    """Of ``letterbox``: the value of the bars, in [0, 1]."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ConfigError(f"a view needs at least 1 x 1 pixels, got {self.height} x {self.width}")
        if self.convention not in get_args(Convention):
            raise ConfigError(f"expected one of {', '.join(get_args(Convention))}, got {self.convention!r}")
        if not 0 < self.crop_share <= 1:
            raise ConfigError(f"crop_share must be in (0, 1], got {self.crop_share}")
        if not 0 <= self.fill <= 1:
            raise ConfigError(f"fill must be in [0, 1], got {self.fill}")

    def show(self, image: Tensor) -> Tensor:
        """What the classifier sees of a picture: ``(C, H, W)`` in [0, 1] -> ``(C, height, width)``."""
        source, inside = self._boxes(*image.shape[-2:])
        part = source.of(image)[None]
        if self.convention == "crop":
            scaled = resize(part, *self._covering(source))
            return inside.of(scaled)[0].contiguous()
        shown = image.new_full((1, len(image), self.height, self.width), self.fill)
        inside.of(shown).copy_(resize(part, inside.height, inside.width))
        return shown[0]

    def paste(self, image: Tensor, purified: Tensor, hidden: Tensor) -> Tensor:
        """A copy of the whole picture with what was restored in the view of it.

        image: ``(C, H, W)``. purified: ``(C, height, width)``, the purified view. hidden: ``(g, g)`` bool, its restored
        tokens. Pixels of other tokens, and those that the view leaves out, are returned bit for bit.
        """
        source, inside = self._boxes(*image.shape[-2:])
        mask = tokens_to_pixels(hidden[None], self.height, self.width).float()  # (1, 1, height, width)
        if self.convention == "crop":
            height, width = self._covering(source)
            whole = purified.new_zeros(1, len(purified), height, width)
            where = mask.new_zeros(1, 1, height, width)
            inside.of(whole).copy_(purified[None])
            inside.of(where).copy_(mask)
            # Outside the view there is nothing to blend with, so its edge is repeated.
            whole = _with_edges_repeated(whole, inside)
        else:
            whole, where = inside.of(purified[None]), inside.of(mask)
        restored = resize(whole, source.height, source.width)[0]
        rows = torch.arange(source.height) * where.shape[-2] // source.height
        columns = torch.arange(source.width) * where.shape[-1] // source.width
        chosen = where[0, 0][rows][:, columns] > 0  # nearest neighbour: a pixel is restored or it is not
        full = image.clone()
        source.of(full).copy_(torch.where(chosen, restored.clamp(0, 1), source.of(image)))
        return full

    def _covering(self, source: _Box) -> tuple[int, int]:
        """Size of the resized picture that the view is cut out of."""
        scale = max(self.height / source.height, self.width / source.width) / self.crop_share
        return max(self.height, round(source.height * scale)), max(self.width, round(source.width * scale))

    def _boxes(self, height: int, width: int) -> tuple[_Box, _Box]:
        """The part of the picture that is resized, and where the view lies in it (crop) or it lies in the view."""
        source = _Box(0, 0, height, width)
        if self.convention == "squash":
            return source, _Box(0, 0, self.height, self.width)
        if self.convention == "crop":
            tall = min(height, math.ceil(width * _LONGEST * self.height / self.width))
            wide = min(width, math.ceil(height * _LONGEST * self.width / self.height))
            source = _Box((height - tall) // 2, (width - wide) // 2, tall, wide)
            whole_height, whole_width = self._covering(source)
            top, left = round((whole_height - self.height) / 2), round((whole_width - self.width) / 2)
            return source, _Box(top, left, self.height, self.width)
        scale = min(self.height / height, self.width / width)
        inner_height = min(self.height, max(1, round(height * scale)))
        inner_width = min(self.width, max(1, round(width * scale)))
        top, left = (self.height - inner_height) // 2, (self.width - inner_width) // 2
        return source, _Box(top, left, inner_height, inner_width)


def _with_edges_repeated(whole: Tensor, inside: _Box) -> Tensor:
    """``(1, C, H, W)`` whose pixels outside the box are those at its nearest edge."""
    rows = torch.arange(whole.shape[-2]).clamp(inside.top, inside.top + inside.height - 1)
    columns = torch.arange(whole.shape[-1]).clamp(inside.left, inside.left + inside.width - 1)
    return whole[:, :, rows][:, :, :, columns]
