"""Triggers without a place: patterns that cover the whole image.

Hiding a region does not break a pattern that is everywhere. A filter may: three filters remove one kind of pattern each
and little else.

- ``periodic``: waves and repeated marks, by limiting peaks of the spectrum.
- ``fine``: noise and other fine detail, by scaling the image down and up.
- ``slow``: what changes slowly across the image.

A filter that changes the label proves nothing, since it takes a part of the image's content, too. So the transfer test
of a region (``transfer.py``) is made with what was removed: it is added to clouds of random colour. A pattern brings
its label along; waves, details and slow changes of an ordinary image do not. If all clouds get the label, the filtered
image and its label are the answer.

Fine patterns need more care. What the restorer cannot restore from the other tokens is added to the clouds, since it
holds the noise and less of the content than what scaling removes. And a class may look like noise: frogs do, to some
networks. So two further copies of the image, smoothed between edges and shifted by parts of pixels, must lose the
label, too, and one of them must confirm the new one.

Source of the idea: STRIP (Gao et al., 2019) and SentiNet (Chou et al., 2020), which add images to other images and
paste regions; the filters are the usual ones. Here no other image is needed. Departure: not in the BDMAE paper, which
names such triggers as its limitation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter, and how what it removed is tested."""

    apply: Callable[[Tensor], Tensor]
    """``(C, H, W)`` in [0, 1] -> the same shape, in [0, 1]."""
    strength: float = 1.0
    """How strongly what was removed is added to the clouds. More than 1 for a filter that leaves a part of its
    pattern."""
    noise: bool = False
    """Whether it removes noise: then what the restorer cannot restore is added, and copies must confirm the label."""


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

    @property
    def price(self) -> int:
        """The most queries for one filter: the filtered image, the clouds, and two copies for ``fine``."""
        return 1 + len(self.cloud_grids) + len(COPIES)

    def max_queries(self, spent: int) -> int:
        """The most queries for an image in all, if earlier stages need at most ``spent``."""
        return max(spent, min(spent + len(self.filters) * self.price, self.query_limit))


def filter_whole_image(state: State, rows: Tensor, config: WholeImageConfig) -> Rounds[None]:
    """Filter each image that is not settled, and settle those whose removed pattern passes the transfer test."""
    for name in config.filters:
        affordable = state.oracle.queries[rows] + config.price <= config.query_limit
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
        found = changed[(yield from _brings_label(state, tested, pattern, config))]
        if FILTERS[name].noise and len(found):
            found = found[(yield from _confirmed(state, asked[found], labels[found]))]
        everything = torch.ones(len(found), state.grid, state.grid, dtype=torch.bool)
        state.settle(asked[found], pictures[found], everything, labels[found])


def filtered(images: Tensor, name: str) -> Tensor:
    """Filter images ``(B, C, H, W)`` in [0, 1], each on its own. name: a key of :data:`FILTERS`."""
    return torch.stack([FILTERS[name].apply(image) for image in images])


def _removed(state: State, rows: Tensor, pictures: Tensor, used: Filter) -> Rounds[Tensor]:
    """What to add to clouds for a filter of images: ``(R, C, H, W)``. pictures: the filtered images."""
    images = state.images[rows]
    left = (yield from restore_in_parts(state, rows, 1)) if used.noise else pictures
    return used.strength * (images - left)


def _brings_label(state: State, rows: Tensor, pattern: Tensor, config: WholeImageConfig) -> Rounds[Tensor]:
    """Whether all clouds get the original label when a pattern ``(R, C, H, W)`` is added to them: ``(R,)`` bool."""
    pictures = clouds(pattern, state.streams(rows), config.cloud_grids)
    pictures = ((pictures - 0.5) * _CONTRAST + 0.5 + pattern.unsqueeze(1)).clamp(0, 1)
    answers = yield from state.oracle.ask(rows, pictures)
    return (answers == state.original[rows].unsqueeze(1)).all(dim=1)


def _confirmed(state: State, rows: Tensor, labels: Tensor) -> Rounds[Tensor]:
    """Whether both copies lose the original label and one of them has the label of the filtered image: ``(R,)`` bool.

    labels: ``(R,)`` int64, of the filtered images.
    """
    images = state.images[rows]
    copies = torch.stack([torch.stack([copy(image) for copy in COPIES]) for image in images])  # (R, 2, C, H, W)
    answers = yield from state.oracle.ask(rows, copies)
    lost = (answers != state.original[rows].unsqueeze(1)).all(dim=1)
    return lost & (answers == labels.unsqueeze(1)).any(dim=1)


FILTERS = {
    "periodic": Filter(apply=without_peaks),
    "fine": Filter(apply=functools.partial(rescaled, scale=_SCALE), noise=True),
    "slow": Filter(apply=functools.partial(without_slow_changes, periods=_SLOW), strength=1.5),
}
"""Filters by name."""

COPIES: tuple[Callable[[Tensor], Tensor], ...] = (
    functools.partial(bilateral, radius=2, space=1.5, colour=0.2),
    functools.partial(affine, down=0.05, right=0.075, outside="reflection"),
)
"""Copies that confirm the label of the filter ``fine``."""
