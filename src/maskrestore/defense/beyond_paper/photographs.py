"""Photographs: fewer tokens are restored, and a large region must not show an object.

Two things that hold at 32 x 32 do not hold for photographs. Restorations differ from them everywhere in fine texture,
so the thresholds of S would restore a quarter of any photograph; a trigger has by far the highest scores all the same.
And a region with the object gives its label to clouds, as a trigger does, so the transfer test (``transfer.py``)
mistakes it for one. So for images of more than 64 x 64 pixels

1. the first attempt restores the tokens around the highest score, which a trigger has, and nothing of the object; the
   second one the few tokens with the highest scores. Both use one mask: where higher thresholds leave a part of the
   trigger in view, it comes back;
2. squares are a little larger (``squares.py``). The second one is tried only if it is restored nearly as badly as the
   first, as all squares are that cover most of a faint trigger;
3. of the filters (``whole_image.py``) one is tried, a blur: of squares, in place of a restoration, and of the whole
   image. What it removed goes on finer clouds: edges of an object give its label to smooth clouds, but not to one with
   224 colours along a side;
4. any other large region whose restoration changes the label is shown coarsely, in its place in the image
   (``objects.py``). If the image keeps its label, the restoration is not accepted;
5. group testing (``group_testing.py``) restores smaller parts of a window, for the same reason. It comes before the
   masks with all settings that were chosen by measurement, not only with ``fast``: where three quarters of a photograph
   are hidden, its label may change for reasons of its own, and masks missed 6 of 150 icons.

The coarse picture takes the place of the last cloud, so an image needs no more queries. Small regions rarely hold an
object, and some icons keep their effect when they are coarse, so only large ones are tested.

What this costs: a large trigger of large plain areas is mistaken for an object. Departure: not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import check_cloud_grids
from maskrestore.defense.beyond_paper.filters import check_filters
from maskrestore.defense.restoration import RestorationConfig, adaptive_masks
from maskrestore.imaging.resize import resize
from maskrestore.runtime.settings import check, check_types

__all__ = ["PhotographsConfig", "in_cells", "masks_of_attempt", "needs_coarse_test"]


@dataclass(frozen=True, kw_only=True)
class PhotographsConfig:
    """What is different for images of more than 64 x 64 pixels. Raises ConfigError."""

    block: int = 3
    """Tokens along a side of the block around the highest score, which the first attempt restores. Odd."""
    max_restored: float = 0.03
    """In further attempts, in place of ``restoration.max_restored``."""
    square_side: float = 0.5
    """In place of ``squares.side``. A faint pattern works on if the part of it that a smaller square leaves does."""
    square_count: int = 2
    """In place of ``squares.count``, if that is not less."""
    square_margin: float = 0.02
    """Squares whose score is lower than the highest by more than this are not tried. Not for those
    that are blurred before the masks."""
    cells: int = 75
    """Places along a side of the coarse picture, whose details are lost."""
    small_region: float = 0.05
    """Regions of at most this share of the tokens, in [0, 1], are not shown coarsely."""
    filters: tuple[str, ...] = ("blurred",)
    """In place of ``whole_image.filters``, and for squares in place of a restoration."""
    filter_grids: tuple[int, ...] = (224, 56, 20, 8)
    """In place of ``whole_image.cloud_grids``. For squares and corners one of three or more need not
    get the label."""
    group_grids: tuple[int, ...] | None = None
    """Group testing before the masks: number of colours along a side, for each of its clouds. Where it finds nothing,
    masks are asked about all the same, if enough queries are left. ``None``: no group testing but that of ``fast``."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < self.max_restored <= 1, "photographs.max_restored", "in (0, 1]", self.max_restored)
        odd = self.block >= 1 and self.block % 2 == 1
        check(odd, "photographs.block", "odd and at least 1", self.block)
        check(0 < self.square_side <= 1, "photographs.square_side", "in (0, 1]", self.square_side)
        check(self.square_count >= 1, "photographs.square_count", "at least 1", self.square_count)
        check(self.square_margin >= 0, "photographs.square_margin", "at least 0", self.square_margin)
        check(self.cells >= 1, "photographs.cells", "at least 1", self.cells)
        check(0 <= self.small_region <= 1, "photographs.small_region", "in [0, 1]", self.small_region)
        check_filters(self.filters, "photographs.filters")
        check_cloud_grids(self.filter_grids, "photographs.filter_grids")
        if self.group_grids is not None:
            check_cloud_grids(self.group_grids, "photographs.group_grids")


def masks_of_attempt(
    scores: Tensor, restoration: RestorationConfig, number: int, config: PhotographsConfig | None
) -> Tensor:
    """The tokens that an attempt hides, for each threshold: ``(R, K, g, g)`` bool, nested. K is 1 for photographs.

    scores: ``(R, g, g)``. number: of the attempt, from 0 on. config: ``None`` for small images, here and below.
    """
    if config is None:
        return adaptive_masks(scores + restoration.attempts[number], restoration)
    if number == 0:
        return block_around_highest(scores, config.block).unsqueeze(1)
    few = replace(restoration, max_restored=config.max_restored, thresholds=restoration.thresholds[-1:])
    return adaptive_masks(scores + restoration.attempts[number], few)


def block_around_highest(scores: Tensor, side: int) -> Tensor:
    """The tokens around the highest of the scores ``(R, g, g)``, up to ``side // 2`` away: ``(R, g, g)`` bool."""
    grid = scores.shape[-1]
    highest = scores.flatten(1).argmax(dim=1, keepdim=True)
    token = torch.arange(grid)
    rows, columns = ((token - place).abs() <= side // 2 for place in (highest // grid, highest % grid))
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def needs_coarse_test(hidden: Tensor, config: PhotographsConfig | None) -> Tensor:
    """Which regions ``(R, g, g)`` are large regions of photographs: ``(R,)`` bool."""
    if config is None:
        return torch.zeros(len(hidden), dtype=torch.bool)
    return hidden.flatten(1).double().mean(dim=1) > config.small_region


def in_cells(images: Tensor, cells: int) -> Tensor:
    """Images ``(B, C, H, W)`` in [0, 1] as ``cells`` places along a side show them; the same shape."""
    height, width = images.shape[-2:]
    return resize(resize(images, min(cells, height), min(cells, width)), height, width).clamp(0, 1)
