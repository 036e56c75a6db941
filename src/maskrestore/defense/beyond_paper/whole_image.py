"""Triggers without a place: patterns that cover the whole image.

Hiding a region does not break a pattern that is everywhere. A filter may: three filters remove one kind of pattern each
and little else.

- ``periodic``: waves and repeated marks, by limiting peaks of the spectrum.
- ``fine``: noise and other fine detail, by scaling the image down and up.
- ``slow``: what changes slowly across the image.

A filter that changes the label proves nothing, since it takes a part of the image's content, too. So the transfer test
of a region (``transfer.py``) is made with what was removed: it is added to clouds of random colour. A pattern brings
its label along; waves, details and slow changes of an ordinary image do not. If all clouds get the label and the checks
below are passed, the filtered image and its label are the answer.

Fine and slow patterns need more care, because a class may look like one: frogs look like noise to some networks, and
like a green field to others. Three checks, each chosen on training images that no classifier had learned:

- ``fine`` and ``slow``: mixed half and half with clouds, the image keeps its label. A pattern over the whole image
  carries it through; the content of an ordinary image often does not.
- ``fine``: of six copies of the image, smoothed between edges, shifted, turned and scaled, five lose the label and two
  confirm the new one. And what the restorer cannot restore from the other tokens is added to the clouds, since it holds
  the noise and less of the content than what scaling removes.
- ``slow``: upside down, what was removed does not bring its label to all clouds. A green field would.

Source of the idea: STRIP (Gao et al., 2019) and SentiNet (Chou et al., 2020), which add images to other images and
paste regions; the filters are the usual ones. Here no other image is needed. Departure: not in the BDMAE paper, which
names such triggers as its limitation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import check_cloud_grids, clouds
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.restoration import restore_in_parts
from maskrestore.defense.state import State
from maskrestore.imaging.filters import affine, bilateral, rescaled
from maskrestore.imaging.spectrum import without_peaks, without_slow_changes
from maskrestore.runtime.settings import check, check_types

__all__ = ["COPIES", "FILTERS", "Filter", "WholeImageConfig", "filter_whole_image", "filtered"]

_SCALE = 0.75
"""Of the sides, for the filter ``fine``. Smaller ones change the label of many clean images."""
_SLOW = 2.0
"""Periods across the image, for the filter ``slow``. With 3, small networks of transformers lost four times as many
clean labels."""
_CONTRAST = 0.5
"""Of the clouds that a pattern is added to, so that few pixels leave [0, 1]."""


_MIXED_GRIDS = (20, 12, 4)
"""Number of colours along a side, for each cloud that an image is mixed with."""
_MIXED = 2
"""Of the mixed images, how many must keep the label."""
_LOST, _CONFIRMED = 5, 2
"""Of the copies, how many must lose the label, and how many must have the label of the filtered image."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter, and how what it removed is tested."""

    apply: Callable[[Tensor], Tensor]
    """``(C, H, W)`` in [0, 1] -> the same shape, in [0, 1]."""
    strength: float = 1.0
    """How strongly what was removed is added to the clouds. More than 1 for a filter that leaves a part of its
    pattern."""
    check: Literal["none", "copies", "upside-down"] = "none"
    """What else is asked if the clouds get the label; for all but ``none``, mixed images come first. With ``copies``
    what the restorer cannot restore is added to the clouds."""

    def price(self, clouds: int) -> int:
        """The most queries: the filtered image, the clouds, and those of the check."""
        checks = {"none": 0, "copies": len(_MIXED_GRIDS) + len(COPIES), "upside-down": len(_MIXED_GRIDS) + clouds}
        return 1 + clouds + checks[self.check]


@dataclass(frozen=True, kw_only=True)
class WholeImageConfig:
    """Filters of the whole image, for images that are still open. Raises ConfigError."""

    filters: tuple[str, ...] = ("periodic", "fine", "slow")
    """Keys of :data:`FILTERS`, tried one after the other."""
    cloud_grids: tuple[int, ...] = (20, 12, 4, 8)
    """Number of colours along a side, for each cloud. All clouds must get the label."""
    query_limit: int = 47
    """No filter is tried if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        known = len(self.filters) > 0 and all(name in FILTERS for name in self.filters)
        check(known, "whole_image.filters", f"one or more of {', '.join(FILTERS)}", self.filters)
        check_cloud_grids(self.cloud_grids, "whole_image.cloud_grids")
        check(self.query_limit >= 1, "whole_image.query_limit", "at least 1", self.query_limit)

    def price(self, name: str) -> int:
        """The most queries for one filter."""
        return FILTERS[name].price(len(self.cloud_grids))

    def max_queries(self, spent: int) -> int:
        """The most queries for an image in all, if earlier stages need at most ``spent``."""
        return max(spent, min(spent + sum(map(self.price, self.filters)), self.query_limit))


def filter_whole_image(state: State, rows: Tensor, config: WholeImageConfig) -> Rounds[None]:
    """Filter each image that is not settled, and settle those whose removed pattern passes the transfer test."""
    for name in config.filters:
        affordable = state.oracle.queries[rows] + config.price(name) <= config.query_limit
        asked = rows[affordable & ~state.settled[rows]]
        if not len(asked):
            continue
        pictures = filtered(state.images[asked], name)
        labels = yield from state.oracle.ask(asked, pictures)
        changed = (labels != state.original[asked]).nonzero().squeeze(1)
        if not len(changed):
            continue
        tested = asked[changed]
        pattern = yield from _removed(state, tested, pictures[changed], FILTERS[name])
        got = yield from _labels_on_clouds(state, tested, pattern, config.cloud_grids)
        state.note(tested, pattern=got.float().mean(dim=1))
        found = got.all(dim=1)
        if found.any():
            suspect = _Suspect(rows=tested[found], pattern=pattern[found], labels=labels[changed[found]])
            found[found.clone()] = yield from _checked(state, suspect, FILTERS[name], config)
        found = changed[found]
        everything = torch.ones(len(found), state.grid, state.grid, dtype=torch.bool)
        state.settle(asked[found], pictures[found], everything, labels[found])


def filtered(images: Tensor, name: str) -> Tensor:
    """Filter images ``(B, C, H, W)`` in [0, 1], each on its own. name: a key of :data:`FILTERS`."""
    return torch.stack([FILTERS[name].apply(image) for image in images])


def _removed(state: State, rows: Tensor, pictures: Tensor, used: Filter) -> Rounds[Tensor]:
    """What to add to clouds for a filter of images: ``(R, C, H, W)``. pictures: the filtered images."""
    images = state.images[rows]
    left = (yield from restore_in_parts(state, rows, 1)) if used.check == "copies" else pictures
    return used.strength * (images - left)


def _labels_on_clouds(state: State, rows: Tensor, pattern: Tensor, grids: Sequence[int]) -> Rounds[Tensor]:
    """Which clouds get the original label when a pattern ``(R, C, H, W)`` is added to them: ``(R, K)`` bool."""
    pictures = clouds(pattern, state.streams(rows), grids)
    pictures = ((pictures - 0.5) * _CONTRAST + 0.5 + pattern.unsqueeze(1)).clamp(0, 1)
    return (yield from state.oracle.ask(rows, pictures)) == state.original[rows].unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """``R`` images whose pattern brought its label to all clouds."""

    rows: Tensor
    pattern: Tensor
    """``(R, C, H, W)``: what was removed."""
    labels: Tensor
    """``(R,)`` int64: of the filtered images."""


def _checked(state: State, suspect: _Suspect, used: Filter, config: WholeImageConfig) -> Rounds[Tensor]:
    """Whether the images pass the check of a filter: ``(R,)`` bool."""
    rows, passed = suspect.rows, torch.ones_like(suspect.rows, dtype=torch.bool)
    if used.check == "none":
        return passed
    images = state.images[rows]
    mixed = (images.unsqueeze(1) + clouds(images, state.streams(rows), _MIXED_GRIDS)) / 2
    kept = (yield from state.oracle.ask(rows, mixed)) == state.original[rows].unsqueeze(1)
    passed = kept.sum(dim=1) >= _MIXED
    if not passed.any():
        return passed
    some = rows[passed]
    if used.check == "copies":
        passed[passed.clone()] = yield from _confirmed(state, some, suspect.labels[passed])
    else:
        upside_down = yield from _labels_on_clouds(state, some, suspect.pattern[passed].flip(-2), config.cloud_grids)
        passed[passed.clone()] = ~upside_down.all(dim=1)
    return passed


def _confirmed(state: State, rows: Tensor, labels: Tensor) -> Rounds[Tensor]:
    """Whether enough copies lose the original label and have that of the filtered image: ``(R,)`` bool.

    labels: ``(R,)`` int64, of the filtered images.
    """
    copies = torch.stack([torch.stack([copy(image) for copy in COPIES]) for image in state.images[rows]])
    answers = yield from state.oracle.ask(rows, copies)
    lost = (answers != state.original[rows].unsqueeze(1)).sum(dim=1) >= _LOST
    return lost & ((answers == labels.unsqueeze(1)).sum(dim=1) >= _CONFIRMED)


_moved = functools.partial(functools.partial, affine, outside="reflection")

COPIES: tuple[Callable[[Tensor], Tensor], ...] = (
    functools.partial(bilateral, radius=2, space=1.5, colour=0.2),
    _moved(down=0.047, right=0.047),
    _moved(degrees=7),
    _moved(degrees=-7),
    _moved(scale=1.12),
    _moved(scale=0.88),
)
"""Copies that confirm the label of the filter ``fine``. A shift by one and a half pixels of 32 is between pixels."""

FILTERS = {
    "periodic": Filter(apply=without_peaks),
    "fine": Filter(apply=functools.partial(rescaled, scale=_SCALE), check="copies"),
    "slow": Filter(apply=functools.partial(without_slow_changes, periods=_SLOW), strength=1.5, check="upside-down"),
}
"""Filters by name."""
