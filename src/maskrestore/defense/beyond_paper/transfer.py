"""The transfer test: does a suspicious region also decide the label of other pictures?

A trigger gives its label to any picture that it is pasted on; a part of an ordinary image does not. So a restoration
that changed the label is accepted only if the replaced region gives the original label to other pictures: it is pasted,
at its place, on clouds of random colour. In the first attempt, which rarely changes the label of a clean image, most
clouds must get the label; in later attempts all of them must.

There is no test if the mirrored image gives the new label, too: see ``moved.py``.

An all-to-all trigger, with a target for each class, does not give one label to all pictures, but it changes the label
of all. So if too few clouds get the label, the restoration is also accepted if the region does that: see
``all_to_all.py``. Settings without that stage have the older *comparison*, in the first attempt only: the region must
change the label of most clouds and of every mirrored or turned copy of the purified image.

A large part of an ordinary image may show its object, so it can keep its label on smooth clouds, but not on clouds that
are noise in every pixel. A large trigger keeps its label there as well. So squares (``squares.py``) use finer clouds.

Source of the idea: SentiNet (Chou et al., 2020), which pastes the salient region onto held-out clean images. Here no
other image is needed. Departure: not in the BDMAE paper.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.all_to_all import AllToAllConfig, changes_all
from maskrestore.defense.beyond_paper.clouds import CLOUD_GRIDS, check_cloud_grids, clouds, pasted
from maskrestore.defense.beyond_paper.moved import is_seconded
from maskrestore.defense.beyond_paper.necessity import NecessityConfig, is_needed
from maskrestore.defense.beyond_paper.objects import shows_object
from maskrestore.defense.beyond_paper.photographs import PhotographsConfig, in_cells, needs_coarse_test
from maskrestore.defense.beyond_paper.whole_image import filter_if_enough
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.resize import resize
from maskrestore.runtime.settings import check, check_types

__all__ = [
    "TURNS",
    "Attempt",
    "TransferTestConfig",
    "on_clouds",
    "transfer_test",
    "try_restoration",
    "turned",
]

TURNS = 3
"""Number of copies of the purified image: mirrored, turned by 90 degrees, turned by 180 degrees."""


@dataclass(frozen=True, kw_only=True)
class TransferTestConfig:
    """The transfer test. Raises ConfigError."""

    cloud_grids: tuple[int, ...] = CLOUD_GRIDS
    """Number of colours along a side, for each cloud. Each cloud takes one query."""
    enough_clouds: int = 2
    """Number of clouds that must get the label in the first attempt, or all if there are fewer. In later attempts, and
    for squares and group testing, all must."""
    comparison: bool = True
    """Whether the first attempt also looks for an all-to-all trigger, with a target for each class."""

    def __post_init__(self) -> None:
        check_types(self)
        check_cloud_grids(self.cloud_grids, "transfer_test.cloud_grids")
        check(self.enough_clouds >= 1, "transfer_test.enough_clouds", "at least 1", self.enough_clouds)

    @property
    def clouds(self) -> int:
        """Number of clouds."""
        return len(self.cloud_grids)

    def max_queries(self, attempts: int) -> int:
        """The most queries for an image over all attempts; only the first makes the comparison."""
        return attempts * self.clouds + (self.clouds + 2 * TURNS if self.comparison else 0)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Restorations of ``R`` images to test."""

    restored: Tensor
    """``(R, C, H, W)`` in [0, 1]."""
    hidden: Tensor
    """``(R, g, g)`` bool: the tokens that were restored."""
    labels: Tensor
    """``(R,)`` int64: labels of ``restored``."""

    def of(self, places: Tensor) -> Attempt:
        """The restorations of some of the images. places: ``(P,)`` int64."""
        return Attempt(restored=self.restored[places], hidden=self.hidden[places], labels=self.labels[places])


def try_restoration(
    state: State,
    rows: Tensor,
    restored: Tensor,
    hidden: Tensor,
    test: TransferTestConfig | None,
    *,
    first: bool = False,
    grids: Sequence[int] | None = None,
    photographs: PhotographsConfig | None = None,
    all_to_all: AllToAllConfig | None = None,
    necessity: NecessityConfig | None = None,
    instead: str | None = None,
    query_limit: int = 0,
) -> Rounds[None]:
    """Query a restoration of each image, and settle the images whose restoration passes the test.

    It needs no test if the mirrored image has its label, too (``moved.py``).

    restored: ``(R, C, H, W)``; hidden: ``(R, g, g)``. test: ``None`` accepts every restoration. first: whether this is
    the first attempt, which needs fewer clouds and makes the comparison. grids: of the clouds; ``None``: those of the
    test. photographs: how their large regions are tested; ``None``: as any other. all_to_all: how those that fail the
    test are tested for an all-to-all trigger; ``None``: not at all. necessity: whether the region must also be needed;
    ``None``: not asked. instead: a filter whose answer takes the place of a restoration that passed, if it changes the
    label, too, and the image then has at most ``query_limit`` queries; ``None``: no filter.
    """
    labels = yield from state.oracle.ask(rows, restored)
    believed = torch.ones_like(labels, dtype=torch.bool)
    if test is not None:
        believed = is_seconded(state, rows, labels)
        left = (~believed).nonzero().squeeze(1)
        chosen = test.cloud_grids if grids is None else grids
        enough, compare = (test.enough_clouds, test.comparison) if first else (len(chosen), False)
        passed = yield from transfer_test(
            state,
            rows[left],
            Attempt(restored=restored, hidden=hidden, labels=labels).of(left),
            grids=chosen,
            enough=enough,
            compare=compare,
            all_to_all=all_to_all,
            photographs=photographs,
        )
        left = left[passed]
        if necessity is not None and len(left):
            left = left[(yield from is_needed(state, rows[left], hidden[left], necessity))]
        believed[left] = True
    state.doubted[rows[~believed]] = labels[~believed]
    rows, restored, hidden, labels = rows[believed], restored[believed], hidden[believed], labels[believed]
    if instead is not None and len(rows):
        places, pictures, answers = yield from filter_if_enough(state, rows, hidden, instead, query_limit)
        restored[places], labels[places] = pictures, answers
    state.settle(rows, restored, hidden, labels, tested=test is not None)


def transfer_test(
    state: State,
    rows: Tensor,
    attempt: Attempt,
    *,
    grids: Sequence[int],
    enough: int,
    compare: bool,
    all_to_all: AllToAllConfig | None = None,
    photographs: PhotographsConfig | None = None,
) -> Rounds[Tensor]:
    """Whether the restored region of each image behaves like a trigger, ``(R,)`` bool.

    If the label did not change, it does not, and no query is sent. Otherwise one query is sent for each cloud, as many
    again for the comparison, and ``2 * TURNS`` if the comparison goes on to the turned copies.

    grids: numbers of colours along a side of the clouds. enough: number of clouds that must get the original label, all
    if there are fewer. compare: if they do not, look for an all-to-all trigger, which changes as many labels.
    all_to_all: if they do not, look for one that changes all labels; ``None``: do not. photographs: their large regions
    must not show an object; this takes the place of the last cloud. With a single cloud, or ``None``, there is no such
    test.
    """
    found = torch.zeros_like(rows, dtype=torch.bool)
    changed = state.original[rows] != attempt.labels
    large = needs_coarse_test(attempt.hidden, photographs if len(grids) > 1 else None)
    usual, tested = ((changed & chosen).nonzero().squeeze(1) for chosen in (~large, large))
    if photographs is not None and len(tested):
        coarse = functools.partial(in_cells, cells=photographs.cells)
        tested = tested[~(yield from shows_object(state, rows[tested], attempt.hidden[tested], coarse))]
    for place, some in ((usual, grids), (tested, grids[:-1])):
        if len(place):
            found[place] = yield from _on_other_pictures(
                state, rows[place], attempt.of(place), grids=some, enough=enough, compare=compare, all_to_all=all_to_all
            )
    return found


def _on_other_pictures(
    state: State,
    rows: Tensor,
    attempt: Attempt,
    *,
    grids: Sequence[int],
    enough: int,
    compare: bool,
    all_to_all: AllToAllConfig | None,
) -> Rounds[Tensor]:
    """Whether each region has the effect of a trigger on clouds and, for an all-to-all trigger, on copies."""
    hidden = attempt.hidden
    found, changes, first = yield from on_clouds(state, rows, hidden, grids=grids, enough=enough, compare=compare)
    if all_to_all is not None:
        rest = (~found).nonzero().squeeze(1)
        cloud = (grids[0], first[rest])
        found[rest] = yield from changes_all(
            state, rows[rest], hidden[rest], attempt.restored[rest], all_to_all, cloud=cloud
        )
    rest = changes.nonzero().squeeze(1)
    if len(rest):
        copies = turned(attempt.restored[rest])
        with_region = yield from state.oracle.ask(rows[rest], pasted(state.images[rows[rest]], hidden[rest], copies))
        without = yield from state.oracle.ask(rows[rest], copies)
        found[rest] = (with_region != without).all(dim=1)
    return found


def on_clouds(
    state: State, rows: Tensor, hidden: Tensor, *, grids: Sequence[int], enough: int, compare: bool
) -> Rounds[tuple[Tensor, Tensor, Tensor]]:
    """Paste the region ``hidden``, ``(R, g, g)`` bool, of each image on a cloud of each grid, and query.

    enough: number of clouds that are enough, all if there are fewer. compare: if too few get the label of the image,
    also query the clouds without the region.

    Returns three ``(R,)``: whether enough clouds get the label of the image; whether the region changes the label of
    enough clouds (False if that was not queried); and the label of the first cloud with the region, int64.
    """
    enough = min(enough, len(grids))
    images = state.images[rows]
    pictures = clouds(images, state.streams(rows), grids)
    answers = yield from state.oracle.ask(rows, pasted(images, hidden, pictures, in_place=not compare))
    got = (answers == state.original[rows].unsqueeze(1)).sum(dim=1)
    state.note(rows, brings=got / len(grids))
    brings = got >= enough
    changes = torch.zeros_like(brings)
    rest = (~brings).nonzero().squeeze(1)
    if compare and len(rest):
        alone = yield from state.oracle.ask(rows[rest], pictures[rest])
        changes[rest] = (answers[rest] != alone).sum(dim=1) >= enough
    return brings, changes, answers[:, 0]


def turned(images: Tensor) -> Tensor:
    """Copies of the images, mirrored and turned: ``(B, C, H, W)`` -> ``(B, TURNS, C, H, W)``."""
    quarter = resize(images.rot90(1, (2, 3)), *images.shape[-2:])  # turning swaps the sides
    return torch.stack([images.flip(3), quarter, images.rot90(2, (2, 3))], dim=1)
