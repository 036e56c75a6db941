"""Show pictures of any shape to a classifier that takes one size, and put what was restored back into the picture.

A photograph is purified at the size at which the classifier sees it, so a picture of 12 megapixels costs what a small
one does. A picture is never enlarged here: the classifier's adapter does that after the purification.
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
"""Of a picture that is this many times longer than the view, the ends are cut off before it is resized."""


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


@dataclass(frozen=True)
class _Plan:
    """How a picture of one size is shown: ``source`` is cut out of it and resized to ``scaled``.

    ``shown`` is what the classifier sees, in pixels of the resized picture. It lies inside it, or reaches beyond it.
    """

    source: _Box
    scaled: tuple[int, int]
    shown: _Box

    @property
    def common(self) -> tuple[_Box, _Box]:
        """What is both in the resized picture and in what is shown: its place in each of them."""
        top, left = max(0, self.shown.top), max(0, self.shown.left)
        height = min(self.scaled[0], self.shown.top + self.shown.height) - top
        width = min(self.scaled[1], self.shown.left + self.shown.width) - left
        return _Box(top, left, height, width), _Box(top - self.shown.top, left - self.shown.left, height, width)


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
        """What the classifier sees of a picture: ``(C, H, W)`` in [0, 1] -> ``(C, height, width)``.

        If that would enlarge the picture, the result is smaller and has the same shape but for rounding: enlarged to
        the view without cropping, it is what the classifier sees.
        """
        plan = self._plan(*image.shape[-2:])
        scaled = resize(plan.source.of(image)[None], *plan.scaled)[0].clamp(0, 1)
        inside, place = plan.common
        shown = image.new_full((len(image), plan.shown.height, plan.shown.width), self.fill)
        place.of(shown).copy_(inside.of(scaled))
        return shown

    def paste(self, image: Tensor, purified: Tensor, hidden: Tensor) -> Tensor:
        """A copy of the whole picture with what was restored in the view of it.

        image: ``(C, H, W)``. purified: the purified view, as large as what :meth:`show` returns. hidden: ``(g, g)``
        bool, its restored tokens. Pixels of other tokens, and those that are not shown, are returned bit for bit.
        """
        plan = self._plan(*image.shape[-2:])
        inside, place = plan.common
        tokens = tokens_to_pixels(hidden[None], plan.shown.height, plan.shown.width)[0, 0]  # (height, width)
        # Beyond what is shown there is nothing to blend with at the edge, so the edge is repeated.
        rows = (torch.arange(plan.scaled[0]) - inside.top).clamp(0, inside.height - 1)
        columns = (torch.arange(plan.scaled[1]) - inside.left).clamp(0, inside.width - 1)
        scaled = place.of(purified)[:, rows][:, :, columns]
        mask = torch.zeros(plan.scaled, dtype=torch.bool)
        inside.of(mask).copy_(place.of(tokens))
        restored = resize(scaled[None], plan.source.height, plan.source.width)[0].clamp(0, 1)
        # Nearest neighbour: a pixel of the picture is restored or it is not.
        rows = torch.arange(plan.source.height) * plan.scaled[0] // plan.source.height
        columns = torch.arange(plan.source.width) * plan.scaled[1] // plan.source.width
        full = image.clone()
        part = plan.source.of(full)
        part.copy_(torch.where(mask[rows][:, columns], restored, part))
        return full

    def _plan(self, height: int, width: int) -> _Plan:
        source = _Box(0, 0, height, width)
        if self.convention == "squash":
            size = min(height, self.height), min(width, self.width)
            return _Plan(source, size, _Box(0, 0, *size))
        if self.convention == "crop":
            # Otherwise a line of pixels would be enlarged to a picture that no memory holds.
            tall = min(height, math.ceil(width * _LONGEST * self.height / self.width))
            wide = min(width, math.ceil(height * _LONGEST * self.width / self.height))
            source = _Box((height - tall) // 2, (width - wide) // 2, tall, wide)
            scale = max(self.height / tall, self.width / wide) / self.crop_share
        else:
            scale = min(self.height / height, self.width / width)
        shrinks = scale < 1
        scaled = (
            (max(1, round(source.height * scale)), max(1, round(source.width * scale)))
            if shrinks
            else (source.height, source.width)
        )
        shown = (
            (self.height, self.width)
            if shrinks
            else (max(1, round(self.height / scale)), max(1, round(self.width / scale)))
        )
        top, left = (round((whole - part) / 2) for whole, part in zip(scaled, shown, strict=True))
        return _Plan(source, scaled, _Box(top, left, *shown))
