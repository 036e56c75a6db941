"""Moved copies: is there another label that most mirrored and shifted copies of the image have?

A trigger works at its place, if the classifier was trained so; an object does at most places. So an image whose
mirrored copy has another label is asked about again: mirrored and shifted, and shifted only, in three directions. If
most of the five copies have the label of the mirrored one, it is the answer. Two of the five are mirrored: a traffic
sign that changes its meaning in the mirror keeps its label in the other three.

One copy is enough if a restoration agrees: if the mirrored image has the label of the last restoration that failed its
tests, or of one that is tried later, and most random masks change the label of the image, too, that label is believed.
Masks change the label of few traffic signs so often.

This breaks most input-aware triggers, which work on their own image, so that the tests of regions find half of them
only. Training with triggers that are mirrored and shifted along with the image should evade it.

Source of the idea: geometric transformations as a defense, as in ShrinkPad (Li et al., 2021), whose random place it
replaces by votes. Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.runtime.settings import check, check_types

__all__ = ["MovedConfig", "is_seconded", "mirrored_and_shifted", "moved", "settle_moved"]

_COPIES = 5
_MOST = _COPIES // 2 + 1
_CHANGED = 0.7
"""Share of the random masks that must change the label for a restoration to need no further test."""


@dataclass(frozen=True, kw_only=True)
class MovedConfig:
    """Mirrored and shifted copies, for images that are still open. Raises ConfigError."""

    shift: float = 0.125
    """Share of the sides. What leaves a copy on one side comes back on the other."""
    query_limit: int = 47
    """Not tried if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < self.shift < 0.5, "moved.shift", "in (0, 0.5)", self.shift)
        check(self.query_limit >= 1, "moved.query_limit", "at least 1", self.query_limit)


def settle_moved(state: State, rows: Tensor, config: MovedConfig) -> Rounds[None]:
    """Settle the open images among ``rows`` most of whose moved copies have one other label."""
    asked = rows[~state.settled[rows] & (state.oracle.queries[rows] + _COPIES <= config.query_limit)]
    if not len(asked):
        return
    mirrored = state.images[asked].flip(3)
    label = yield from state.oracle.ask(asked, mirrored)
    state.mirrored[asked] = label
    agreed = is_seconded(state, asked, state.doubted[asked])
    state.settle_whole(asked[agreed], mirrored[agreed], label[agreed])
    doubtful = ~agreed & (label != state.original[asked])
    asked, mirrored, label = asked[doubtful], mirrored[doubtful], label[doubtful]
    if not len(asked):
        return
    answers = yield from state.oracle.ask(asked, moved(state.images[asked], config.shift))
    agreed = 1 + (answers == label.unsqueeze(1)).sum(dim=1) >= _MOST
    state.settle_whole(asked[agreed], mirrored[agreed], label[agreed])


def is_seconded(state: State, rows: Tensor, labels: Tensor) -> Tensor:
    """Whether the mirrored image and the random masks speak for the label of a restoration, too: ``(R,)`` bool.

    labels: ``(R,)`` int64, those of the restorations.
    """
    new = labels != state.original[rows]
    return new & (labels == state.mirrored[rows]) & (state.evidence["changed"][rows] >= _CHANGED)


def moved(images: Tensor, shift: float) -> Tensor:
    """Copies of images ``(R, C, H, W)``, one mirrored and shifted, three shifted: ``(R, 4, C, H, W)``.

    shift: share of the sides.
    """
    down, right = _pixels(images, shift)
    ways = ((down, right), (-down, -right), (down, -right))
    return torch.stack([mirrored_and_shifted(images, shift), *(images.roll(way, dims=(2, 3)) for way in ways)], dim=1)


def mirrored_and_shifted(images: Tensor, shift: float) -> Tensor:
    """Mirror images ``(R, C, H, W)``, and shift them down and to the right. shift: share of the sides."""
    return images.flip(3).roll(_pixels(images, shift), dims=(2, 3))


def _pixels(images: Tensor, shift: float) -> tuple[int, int]:
    down, right = (max(1, round(shift * side)) for side in images.shape[-2:])
    return down, right
