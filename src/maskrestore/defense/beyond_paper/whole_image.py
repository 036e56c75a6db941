"""Triggers without a place: patterns that cover the whole image.

Hiding a region does not break a pattern that is everywhere. A filter may: each filter (``filters.py``) removes one
kind of pattern and little else.

A filter that changes the label proves nothing, since it takes a part of the image's content, too. So the transfer test
of a region (``transfer.py``) is made with what was removed: it is added to clouds of random colour. A pattern brings
its label along; waves, marks, details and slow changes of an ordinary image do not. If all clouds get the label, the
filtered image and its label are the answer.

What ``slow`` removes may be too weak for one cloud. All the others are enough if the mirror agrees: the image has
another label there, and the filtered image keeps its own. A mirrored pattern mostly does not work, if the classifier
was trained so. A traffic sign may be another one in the mirror, but then it is so without its slow changes, too.

Squares are filtered in the same way, in place of a restoration: that leaves more of their content (``squares.py``). And
where ``blurred`` changes the label of a photograph, and of just one of its four overlapping corners, too, that corner
takes the place of the whole. For parts it is enough if all clouds but one get the label.

A class may look like noise, or like a green field: frogs and cats do, to some networks. The clouds have their full
contrast, which hides such content and few triggers: at half of it, 40 of 2,200 clean images passed with ``fine``, at
the full one none (``docs/lab-notes/whole-image.md``).

Source of the idea: STRIP (Gao et al., 2019) and SentiNet (Chou et al., 2020), which add images to other images and
paste regions; the filters are the usual ones. Here no other image is needed. Departure: not in the BDMAE paper, which
names such triggers as its limitation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import check_cloud_grids, clouds
from maskrestore.defense.beyond_paper.filters import FILTERS, Filter, check_filters, filtered, inside
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.restoration import restore_in_halves
from maskrestore.defense.state import State
from maskrestore.imaging.patches import square_masks
from maskrestore.runtime.settings import check, check_types

__all__ = [
    "CHANGES",
    "MIRRORED",
    "NOISE",
    "Parts",
    "WholeImageConfig",
    "filter_if_enough",
    "filter_whole_image",
    "try_filter",
]

NOISE, MIRRORED = "noise", "mirrored"
"""Further changes in ``WholeImageConfig.together``: those of ``fragile.py`` and ``moved.py``."""
CHANGES = (MIRRORED, NOISE, *FILTERS)
"""All that ``WholeImageConfig.together`` can name."""

Parts = Callable[[Tensor, str], Rounds[None]]
"""Tries a filter, by its name, on parts of some images, ``(R,)`` int64, and settles those of which one passes."""

_CORNERS = 4
_MIRROR_LOOKS = 2
"""Queries of the mirror: the filtered image, and the image."""


@dataclass(frozen=True, kw_only=True)
class WholeImageConfig:
    """Filters of the whole image, for images that are still open. Raises ConfigError."""

    filters: tuple[str, ...] = ("periodic", "fine", "marks", "slow")
    """Keys of :data:`FILTERS`, tried one after the other. For photographs see ``photographs.filters``."""
    cloud_grids: tuple[int, ...] = (20, 12, 4, 8)
    """Number of colours along a side, for each cloud. All clouds must get the label; with ``slow`` all but one if the
    mirror agrees. For photographs see ``photographs.filter_grids``."""
    together: tuple[str, ...] = ()
    """Changes that are first made in one picture, such as ``mirrored+periodic+slow``: filters, ``noise`` for fragile
    triggers, and ``mirrored`` for those that a moved copy breaks. If the label stays, none of them is tried by itself.
    A change in none of the pictures is not tried. Empty: each is tried by itself at once, as always without group
    testing, and for photographs."""
    query_limit: int = 47
    """No filter is tried if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        check_filters(self.filters, "whole_image.filters")
        named = [name for names in self.together for name in names.split("+")]
        known = len(set(named)) == len(named) and set(named) <= set(CHANGES)
        check(known, "whole_image.together", f"of {', '.join(CHANGES)}, each at most once, joined by +", self.together)
        check_cloud_grids(self.cloud_grids, "whole_image.cloud_grids")
        check(self.query_limit >= 1, "whole_image.query_limit", "at least 1", self.query_limit)

    @property
    def price(self) -> int:
        """Queries of a filter that changes the label: the filtered image and the clouds, not the mirror or corners."""
        return 1 + len(self.cloud_grids)


def filter_whole_image(
    state: State, worth: Mapping[str, Tensor], config: WholeImageConfig, *, parts: Parts | None = None
) -> Rounds[None]:
    """Filter each image that is not settled, and settle those whose removed pattern passes the transfer test.

    worth: for each filter, the images that it is tried on, ``(R,)`` int64. parts: tries parts of the images whose label
    a filter of the whole changes, before the corners and the whole; ``None``: no such parts.
    """
    for name in config.filters:
        rows = worth[name]
        everything = torch.ones(len(rows), state.grid, state.grid, dtype=torch.bool)
        yield from try_filter(state, rows, everything, name, config, parts=parts)


def try_filter(
    state: State, rows: Tensor, region: Tensor, name: str, config: WholeImageConfig, *, parts: Parts | None = None
) -> Rounds[None]:
    """Filter a region, ``(R, g, g)`` bool, of each image that is not settled, and settle those that pass the test.

    name: a key of :data:`FILTERS`. parts: as for :func:`filter_whole_image`.
    """
    affordable = state.oracle.queries[rows] + config.price <= config.query_limit
    left = affordable & ~state.settled[rows]
    rows, region = rows[left], region[left]
    if not len(rows):
        return
    changed, pictures, labels = yield from _change_labels(state, rows, region, name)
    rows, region = rows[changed], region[changed]
    if parts is not None and len(rows):
        yield from parts(rows, name)
        left = ~state.settled[rows] & (state.oracle.queries[rows] + len(config.cloud_grids) <= config.query_limit)
        rows, region, pictures, labels = rows[left], region[left], pictures[left], labels[left]
    if not len(rows):
        return
    whole, corner = region.flatten(1).all(dim=1), FILTERS[name].corner
    affordable = state.oracle.queries[rows] + _CORNERS + len(config.cloud_grids) <= config.query_limit
    places = (whole & affordable).nonzero().squeeze(1)
    if corner is not None and len(places):
        single, *part = yield from _in_one_corner(state, rows[places], pictures[places], corner)
        places = places[single]
        region[places], pictures[places], labels[places] = part
        whole[places] = False
    pattern = yield from _removed(state, rows, pictures, region, FILTERS[name])
    got = (yield from _label_on_clouds(state, rows, pattern, config)).sum(dim=1)
    every = len(config.cloud_grids)
    most = got >= max(every - 1, min(every, 2))
    found = torch.where(whole, got == every, most)
    if FILTERS[name].mirrored:
        affordable = state.oracle.queries[rows] + _MIRROR_LOOKS <= config.query_limit
        places = (most & ~found & affordable).nonzero().squeeze(1)
        found[places] = yield from _mirror_agrees(state, rows[places], pictures[places], labels[places])
    state.settle(rows[found], pictures[found], region[found], labels[found])


def _in_one_corner(
    state: State, rows: Tensor, pictures: Tensor, share: float
) -> Rounds[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Ask about images that are filtered in one corner only. share: of their sides, the side of a corner.

    pictures: ``(R, C, H, W)``, filtered everywhere.

    Returns where exactly one corner changes the label, places in ``rows`` ``(P,)``, and for those the corner
    ``(P, g, g)`` bool, the images ``(P, C, H, W)`` and their labels.
    """
    side = max(1, round(share * state.grid))
    ends = torch.tensor([0, state.grid - side])
    corners = square_masks(torch.cartesian_prod(ends, ends), side, state.grid)  # (4, g, g)
    images = state.images[rows]
    pictures = torch.stack([inside(one.expand(len(rows), -1, -1), pictures, images) for one in corners], dim=1)
    labels = yield from state.oracle.ask(rows, pictures)  # (R, 4)
    changed = labels != state.original[rows].unsqueeze(1)
    places = (changed.sum(dim=1) == 1).nonzero().squeeze(1)
    one = changed[places].long().argmax(dim=1)
    return places, corners[one], pictures[places, one], labels[places, one]


def filter_if_enough(
    state: State, rows: Tensor, region: Tensor, name: str, query_limit: int
) -> Rounds[tuple[Tensor, Tensor, Tensor]]:
    """Filter a region, ``(R, g, g)`` bool, of each image, to see whether that changes the label.

    name: a key of :data:`FILTERS`. query_limit: images that could then need more queries in all are not asked about.

    Returns as :func:`_change_labels` does.
    """
    places = (state.oracle.queries[rows] + 1 <= query_limit).nonzero().squeeze(1)
    changed, pictures, labels = yield from _change_labels(state, rows[places], region[places], name)
    return places[changed], pictures, labels


def _change_labels(state: State, rows: Tensor, region: Tensor, name: str) -> Rounds[tuple[Tensor, Tensor, Tensor]]:
    """Filter a region, ``(R, g, g)`` bool, of each image.

    Returns where that changes the label, places in ``rows`` ``(P,)``, and the filtered images ``(P, C, H, W)`` and
    their labels.
    """
    pictures = filtered(state.images[rows], name, region)
    labels = yield from state.oracle.ask(rows, pictures)
    places = (labels != state.original[rows]).nonzero().squeeze(1)
    return places, pictures[places], labels[places]


def _removed(state: State, rows: Tensor, pictures: Tensor, region: Tensor, used: Filter) -> Rounds[Tensor]:
    """What to add to clouds for a filter of a region, ``(R, g, g)`` bool. pictures: the filtered images."""
    images = state.images[rows]
    left = inside(region, (yield from restore_in_halves(state, rows)), images) if used.noise else pictures
    return used.strength * (images - left)


def _label_on_clouds(state: State, rows: Tensor, pattern: Tensor, config: WholeImageConfig) -> Rounds[Tensor]:
    """Which clouds get the original label when a pattern ``(R, C, H, W)`` is added to them: ``(R, K)`` bool."""
    pictures = clouds(pattern, state.streams(rows), config.cloud_grids) + pattern.unsqueeze(1)
    got = (yield from state.oracle.ask(rows, pictures.clamp(0, 1))) == state.original[rows].unsqueeze(1)
    state.note(rows, pattern=got.float().mean(dim=1))
    return got


def _mirror_agrees(state: State, rows: Tensor, pictures: Tensor, labels: Tensor) -> Rounds[Tensor]:
    """Whether filtered images keep their labels in the mirror, and the images lose theirs: ``(R,)`` bool.

    pictures: the filtered images, ``(R, C, H, W)``. labels: ``(R,)`` int64, theirs.
    """
    copies = torch.stack([pictures.flip(3), state.images[rows].flip(3)], dim=1)
    kept, lost = (yield from state.oracle.ask(rows, copies)).unbind(dim=1)
    agreed: Tensor = (kept == labels) & (lost != state.original[rows])
    return agreed
