"""Group testing: hide windows, and look closer only where the label changes.

A trigger that is small enough lies wholly inside one of nine windows. They are hidden in four pairs and a single one.
An image whose label none of the five changes has no such trigger. Otherwise the pairs are split, and the windows that
change the label are put on clouds of random colour: a region that does nothing there is no trigger (``transfer.py``).
If one window brings the label there, four parts of it are hidden in turn, and the first that passes the transfer test
is taken for the trigger. This settles most images with 6 to 20 queries. Images where several places act together, or
that are near a decision boundary, are left to the random masks.

Triggers with a target for each class are not looked for: they bring no label along, and comparing what such large
regions do to other pictures mistook 1 to 4 % of clean GTSRB training images for triggered ones. Departure: not in the
paper.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.transfer import (
    CLOUD_GRIDS,
    Attempt,
    check_cloud_grids,
    on_clouds,
    transfer_test,
)
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.runtime.settings import check_types

__all__ = ["GroupTestingConfig", "covering_squares", "settle_by_groups"]

SMALLEST_GRID = 4
"""Tokens along a side; on a smaller grid some of the nine windows would be the same."""
GROUPS = ((0, 8), (2, 6), (1, 7), (3, 5), (4,))
"""Windows, in reading order, that are hidden together: opposite ones, and the middle."""
SPLIT = 2
"""Groups that are split, at most: where more of them change the label, the image is left to the random masks."""
PARTS = 4
"""Parts of a window at most, two along each side; a window of three tokens or less is its only part."""


@dataclass(frozen=True, kw_only=True)
class GroupTestingConfig:
    """Group testing before the random masks. Raises ConfigError."""

    cloud_grids: tuple[int, ...] = CLOUD_GRIDS
    """Colours along each side of each cloud that a region is put on; all clouds must get the label."""

    def __post_init__(self) -> None:
        check_types(self)
        check_cloud_grids(self.cloud_grids, "group_testing.cloud_grids")

    @property
    def max_queries(self) -> int:
        """Queries at most for an image that this settles, with the one for its own label."""
        return self.max_queries_left_open + PARTS * (1 + len(self.cloud_grids))

    @property
    def max_queries_left_open(self) -> int:
        """The same for an image that is left open."""
        return 1 + len(GROUPS) + 2 * SPLIT + len(self.cloud_grids)


def covering_squares(length: int, count: int, overlap: int) -> tuple[int, list[int]]:
    """Side and first places of ``count`` equal stretches that cover ``length`` places, each overlapping by ``overlap``.

    The overlap may be larger. A run of up to ``overlap + 1`` places lies wholly inside one of them.
    """
    side = min(length, -(-(length + (count - 1) * overlap) // count))  # ceil
    return side, [round(number * (length - side) / (count - 1)) for number in range(count)]


def settle_by_groups(state: State, config: GroupTestingConfig) -> Rounds[None]:
    """Settle the images that can be settled by hiding windows; the others stay open.

    The map of an image, as S_l and S, is the share of the groups at each token that changed the label, and of the parts
    where those were hidden; windows of a group that was split do not count again. On a grid of less than 4 tokens a
    side every image stays open.
    """
    if state.grid < SMALLEST_GRID:
        return
    side, places = covering_squares(state.grid, 3, 1)
    corners = torch.cartesian_prod(torch.tensor(places), torch.tensor(places))  # (9, 2)
    windows = _squares(corners, side, state.grid)
    rows = state.open_rows
    changed = yield from _hide_groups(state, rows, windows)  # (R, 5)
    changes = changed.sum(dim=1)
    state.settled[rows] = changes == 0
    few = (changes > 0) & (changes <= SPLIT)
    rows = rows[few]
    acting = yield from _split_groups(state, rows, changed[few], windows)  # (R, 9)
    if not len(rows):
        return
    region = (acting[:, :, None, None] & windows).any(dim=1)
    grids = config.cloud_grids
    brings, _ = yield from on_clouds(state, rows, region, grids=grids, enough=len(grids), compare=False)
    state.settled[rows] = ~brings
    one = (acting.sum(dim=1) == 1) & brings
    if one.any():
        part, offsets = covering_squares(side, 2, 2)
        inner = torch.tensor(sorted(set(itertools.product(offsets, offsets))))
        window = acting[one].long().argmax(dim=1)
        parts = torch.stack([_squares(corner + inner, part, state.grid) for corner in corners[window]])
        yield from _test_parts(state, rows[one], parts, config)


def _hide_groups(state: State, rows: Tensor, windows: Tensor) -> Rounds[Tensor]:
    """Which groups of windows change the label: ``(R, 5)`` bool. windows: ``(9, g, g)`` bool."""
    groups = torch.stack([windows[list(group)].any(dim=0) for group in GROUPS])
    hidden = groups.expand(len(rows), -1, -1, -1)
    restored = yield from state.restore(rows, hidden)
    labels = yield from state.oracle.ask(rows, restored)
    changed = labels != state.original[rows].unsqueeze(1)
    _keep_map(state, rows, hidden, changed)
    return changed


def _split_groups(state: State, rows: Tensor, changed: Tensor, windows: Tensor) -> Rounds[Tensor]:
    """Which windows, of the groups that change the label, change it alone: ``(R, 9)`` bool; of a pair, both if neither.

    changed: ``(R, 5)`` bool; windows: ``(9, g, g)``.
    """
    acting = torch.zeros(len(rows), len(windows), dtype=torch.bool)
    members = [(row, GROUPS[number]) for row, number in changed.nonzero().tolist()]
    for row, group in members:
        acting[row, list(group)] = True
    pairs = torch.tensor([[row, window] for row, group in members if len(group) > 1 for window in group])
    if len(pairs):
        where, window = pairs.unbind(dim=1)
        restored = yield from state.restore(rows[where], windows[window])
        labels = yield from state.oracle.ask(rows[where], restored)
        alone = labels != state.original[rows[where]]
        neither = ~alone.view(-1, 2).any(dim=1).repeat_interleave(2)
        acting[where, window] = alone | neither
    return acting


def _test_parts(state: State, rows: Tensor, parts: Tensor, config: GroupTestingConfig) -> Rounds[None]:
    """Test the parts ``(R, K, g, g)`` of a window that change the label, one after the other, and settle the images."""
    restored = yield from state.restore(rows, parts)
    labels = yield from state.oracle.ask(rows, restored)
    changed = labels != state.original[rows].unsqueeze(1)
    _keep_map(state, rows, parts, changed)
    grids = config.cloud_grids
    for number in range(parts.shape[1]):
        where = (changed[:, number] & ~state.settled[rows]).nonzero().squeeze(1)
        if not len(where):
            continue
        tried, part = rows[where], parts[where, number]
        attempt = Attempt(restored=restored[where, number], hidden=part, labels=labels[where, number])
        found = yield from transfer_test(state, tried, attempt, grids=grids, enough=len(grids), compare=False)
        state.settle(tried[found], attempt.restored[found], part[found], attempt.labels[found])
    state.settled[rows] = True


def _keep_map(state: State, rows: Tensor, hidden: Tensor, changed: Tensor) -> None:
    """hidden: ``(R, K, g, g)`` bool; changed: ``(R, K)`` bool."""
    times = hidden.sum(dim=1)
    share = (hidden & changed[:, :, None, None]).sum(dim=1) / times.clamp(min=1)
    # Where these squares do not reach, the map stays as it was.
    share = torch.where(times > 0, share, state.maps["label_scores"][rows])
    state.keep_maps(rows, scores=share, label_scores=share, initial_label_scores=share)


def _squares(corners: Tensor, side: int, grid: int) -> Tensor:
    """``(K, 2)`` first rows and columns -> ``(K, g, g)`` bool."""
    place = torch.arange(grid)
    within = (place >= corners[..., None]) & (place < corners[..., None] + side)  # (K, 2, g)
    return within[:, 0, :, None] & within[:, 1, None, :]
