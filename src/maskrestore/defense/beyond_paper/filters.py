"""The filters that ``whole_image.py`` tries on an image, or on a part of it, and how what they removed is tested.

- ``periodic``: waves, by limiting peaks of the spectrum.
- ``fine``: noise and other fine detail, by scaling the image down and up.
- ``marks``: small marks, by the median of the pixels around each pixel.
- ``slow``: what changes slowly across the image.
- ``blurred``: texture, by a blur. For photographs, most of which keep their label; the others are for small images.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import pasted
from maskrestore.imaging.filters import gaussian_blur, median, rescaled
from maskrestore.imaging.resize import resize
from maskrestore.imaging.spectrum import without_peaks, without_slow_changes
from maskrestore.runtime.settings import check

__all__ = ["FILTERS", "Filter", "check_filters", "filtered", "inside"]

_SCALE = 0.75
"""Of the sides, for the filter ``fine``. Smaller ones change the label of many clean images."""
_SLOW = 2.5
"""Periods across the image, for the filter ``slow``. With 3, clean traffic signs lose their label."""
_BLUR, _BLURRED_AT = 2.5 / 224, 224
"""Standard deviation of the filter ``blurred``, as a share of the shorter side; the shorter side up to which an
image is blurred as it is. Larger ones are reduced before it and enlarged after it, since the work grows with the cube
of the side."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter, and how what it removed is tested."""

    apply: Callable[[Tensor], Tensor]
    """``(C, H, W)`` in [0, 1] -> the same shape, in [0, 1]."""
    strength: float = 1.0
    """How strongly what was removed is added to the clouds. More than 1 for a filter that leaves a part of its
    pattern; less for one whose patterns work when they are faint, which content does not."""
    noise: bool = False
    """Whether it removes noise. Then what the restorer cannot restore from the other tokens is added to the clouds: it
    holds the noise, and less of the content than what the filter removes."""
    corner: float | None = None
    """Side of the corners of the image that it is tried on if it changes the label of the whole, as a share of the side
    of the image. ``None``: it is not."""
    mirrored: bool = False
    """Whether one cloud may contradict if the mirror agrees: for patterns that are too weak for some clouds."""


def check_filters(filters: tuple[str, ...], name: str) -> None:
    """Raise ConfigError unless there is at least one filter, and each is a key of :data:`FILTERS`."""
    known = len(filters) > 0 and set(filters) <= set(FILTERS)
    check(known, name, f"one or more of {', '.join(FILTERS)}", filters)


def filtered(images: Tensor, name: str, region: Tensor | None = None) -> Tensor:
    """Filter images ``(B, C, H, W)`` in [0, 1], each on its own.

    name: a key of :data:`FILTERS`. region: the tokens that are filtered, ``(B, g, g)`` bool; ``None`` for all.
    """
    apply = FILTERS[name].apply
    pictures = torch.stack([apply(image) for image in images]) if len(images) else images
    return pictures if region is None else inside(region, pictures, images)


def inside(region: Tensor, pictures: Tensor, images: Tensor) -> Tensor:
    """Pictures in a region, ``(B, g, g)`` bool, and images elsewhere. Both, and the result: ``(B, C, H, W)``."""
    return pasted(pictures, region, images.unsqueeze(1)).squeeze(1)


def _blurred(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    scale = min(1, _BLURRED_AT / min(height, width))
    small = resize(image.unsqueeze(0), round(scale * height), round(scale * width))
    sigma = _BLUR * min(small.shape[-2:])
    return resize(gaussian_blur(small, 2 * math.ceil(3 * sigma) + 1, sigma), height, width)[0]


def _median(image: Tensor) -> Tensor:
    return median(image.unsqueeze(0), 3)[0]


FILTERS = {
    "periodic": Filter(apply=without_peaks, strength=1.5),
    "fine": Filter(apply=functools.partial(rescaled, scale=_SCALE), strength=0.6, noise=True),
    "marks": Filter(apply=_median, strength=0.5),
    "slow": Filter(apply=functools.partial(without_slow_changes, periods=_SLOW), strength=1.5, mirrored=True),
    "blurred": Filter(apply=_blurred, corner=10 / 14),
}
"""Filters by name."""
