"""Group testing: hide large windows first, and test smaller regions only if the label changes.

1. A small trigger lies wholly inside one of nine overlapping windows. They are hidden as four pairs and one single
   window. If none of the five changes the label, the image has no such trigger.
2. The windows of the pairs that changed the label are hidden one by one. Those that change the label are pasted on
   clouds of random colour (``transfer.py``). If the clouds do not get the label of the image, nor does a single window
   change the label of all pictures (``all_to_all.py``), the image has no such trigger.
3. If a single window passes one of these tests, four parts of it are hidden. The first part that passes one, too, is
   restored. If none does although the window gives clouds the label, the image is left to the random masks.
4. In a photograph a quarter of a window may show an object, and then passes, too. So nine smaller parts are hidden
   there, and the first two that change the label are tested.

This takes 6 to 23 queries for most images. Images in which several windows act together, or that are near a decision
boundary, are left to the random masks. Departure: not in the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.all_to_all import PRICE, AllToAllConfig, changes_all
from maskrestore.defense.beyond_paper.clouds import CLOUD_GRIDS, check_cloud_grids, clouds, pasted
from maskrestore.defense.beyond_paper.transfer import Attempt, on_clouds, transfer_test
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.patches import square_masks
from maskrestore.runtime.settings import check_types

__all__ = ["GroupTestingConfig", "covering_squares", "settle_by_groups"]

SMALLEST_GRID = 4
"""Tokens along a side. On a smaller grid some of the nine windows would be equal."""
GROUPS = ((0, 8), (2, 6), (1, 7), (3, 5), (4,))
"""Windows that are hidden together, in reading order: pairs of opposite ones, and the middle one."""
SPLIT = 2
"""The most groups that are split. If more of them change the label, the image is left to the random masks."""
PARTS = 4
"""The most parts of a window, two along each side. A window of three tokens or fewer has itself as its only part."""
SMALL_PARTS, SMALL_TESTED = 9, 2
"""The most parts of a window of a photograph, three along each side, and how many of them are tested."""


@dataclass(frozen=True, kw_only=True)
class GroupTestingConfig:
    """Group testing before the random masks. Raises ConfigError."""

    cloud_grids: tuple[int, ...] = CLOUD_GRIDS
    """Number of colours along a side, for each cloud that a region is pasted on. All clouds must get the label."""

    def __post_init__(self) -> None:
        check_types(self)
        check_cloud_grids(self.cloud_grids, "group_testing.cloud_grids")

    @property
    def max_queries(self) -> int:
        """The most queries for an image that this settles, including the one for its original label."""
        clouds = len(self.cloud_grids)
        return self.max_queries_left_open + max(PARTS + PARTS * clouds, SMALL_PARTS + SMALL_TESTED * clouds)

    @property
    def max_queries_left_open(self) -> int:
        """The most queries before parts of a window are hidden, including the one for the original label."""
        return 1 + len(GROUPS) + 2 * SPLIT + len(self.cloud_grids)


def covering_squares(length: int, count: int, overlap: int) -> tuple[int, list[int]]:
    """Length and starts of ``count`` equal intervals that cover ``length`` places and overlap by at least ``overlap``.

    Any ``overlap + 1`` consecutive places lie wholly inside one of the intervals.
    """
    side = min(length, -(-(length + (count - 1) * overlap) // count))  # ceil
    return side, [round(number * (length - side) / (count - 1)) for number in range(count)]


def settle_by_groups(
    state: State, config: GroupTestingConfig, all_to_all: AllToAllConfig | None = None, *, photographs: bool = False
) -> Rounds[Tensor]:
    """Look for a small trigger in all images by hiding windows, and settle those in which it is found.

    all_to_all: how regions that bring no label along are tested; ``None``: not at all. photographs: whether the parts
    of a window are small.

    Returns the images that have none, ``(R,)`` int64; they are still open, as are those that it cannot tell about.

    The maps S_l and S of an image then hold, for each token, the share of the groups over it that changed the label, or
    of the parts over it if they were hidden. Single windows of a split group are not counted. On a grid with fewer than
    4 tokens along a side it can tell about no image.
    """
    if state.grid < SMALLEST_GRID:
        return torch.empty(0, dtype=torch.int64)
    side, places = covering_squares(state.grid, 3, 1)
    corners = torch.cartesian_prod(torch.tensor(places), torch.tensor(places))  # (9, 2)
    windows = square_masks(corners, side, state.grid)
    rows = state.open_rows
    changed = yield from _hide_groups(state, rows, windows)  # (R, 5)
    count = changed.sum(dim=1)
    cleared = [rows[count == 0]]
    few = (count > 0) & (count <= SPLIT)
    rows = rows[few]
    acting = yield from _split_groups(state, rows, changed[few], windows)  # (R, 9)
    if not len(rows):
        return torch.cat(cleared)
    region = (acting[:, :, None, None] & windows).any(dim=1)
    grids = config.cloud_grids
    brings, _, first = yield from on_clouds(state, rows, region, grids=grids, enough=len(grids), compare=False)
    changes = torch.zeros_like(brings)
    if all_to_all is not None:
        rest = (~brings).nonzero().squeeze(1)
        cloud = (grids[0], first[rest])
        acting[rest] = yield from _window_that_changes_all(
            state, rows[rest], acting[rest], windows, all_to_all, cloud=cloud
        )
        changes[rest] = acting[rest].any(dim=1)
    cleared.append(rows[~brings & ~changes])
    if all_to_all is not None:
        changes &= state.oracle.queries[rows] + PARTS <= all_to_all.query_limit
    one = (acting.sum(dim=1) == 1) & (brings | changes)
    if one.any():
        part, offsets = covering_squares(side, 3, 1) if photographs else covering_squares(side, 2, 2)
        inner = torch.tensor(sorted(set(itertools.product(offsets, offsets))))
        window = acting[one].long().argmax(dim=1)
        parts = torch.stack([square_masks(corner + inner, part, state.grid) for corner in corners[window]])
        left = yield from _test_parts(
            state,
            rows[one],
            parts,
            brings[one],
            most=SMALL_TESTED if photographs else PARTS,
            grids=grids,
            all_to_all=all_to_all,
        )
        cleared.append(left[~torch.isin(left, rows[brings])])  # a trigger may be larger than a part
    return torch.cat(cleared)


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
    """Which windows of the groups that change the label do so alone: ``(R, 9)`` bool; both of a pair if neither does.

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


def _window_that_changes_all(
    state: State,
    rows: Tensor,
    acting: Tensor,
    windows: Tensor,
    config: AllToAllConfig,
    *,
    cloud: tuple[int, Tensor],
) -> Rounds[Tensor]:
    """The window that changes the label of all pictures: ``(R, 9)`` bool, none where there is no single one.

    acting: ``(R, 9)`` bool, the windows in question; windows: ``(9, g, g)``. cloud: the number of colours along its
    side, and its labels with all of them, ``(R,)`` int64.
    """
    acting = yield from _acting_on_cloud(state, rows, acting, windows, config, cloud=cloud)
    found = torch.zeros_like(acting)
    where = (acting.sum(dim=1) == 1).nonzero().squeeze(1)
    if len(where):
        window = windows[acting[where].long().argmax(dim=1)]
        restored = yield from state.restore(rows[where], window)
        changes = yield from changes_all(state, rows[where], window, restored, config, cloud=None)
        found[where] = acting[where] & changes.unsqueeze(1)
    return found


def _acting_on_cloud(
    state: State,
    rows: Tensor,
    acting: Tensor,
    windows: Tensor,
    config: AllToAllConfig,
    *,
    cloud: tuple[int, Tensor],
) -> Rounds[Tensor]:
    """Which of the windows change the label of a cloud by themselves: ``(R, 9)`` bool, none if that is too costly.

    A trigger's window does; another one that changed the label by chance rarely does. Arguments: as above.
    """
    grid, together = cloud
    count = acting.sum(dim=1)
    found = torch.zeros_like(acting)
    where = (state.oracle.queries[rows] + 1 + count + PRICE <= config.query_limit).nonzero().squeeze(1)
    if not len(where):
        return found
    asked = rows[where]
    pictures = clouds(state.images[asked], state.streams(asked), (grid,))  # (R, 1, C, H, W)
    alone = yield from state.oracle.ask(asked, pictures[:, 0])
    some = together[where] != alone  # else no window is asked about
    where, alone, pictures = where[some], alone[some], pictures[some]
    single = count[where] == 1
    found[where[single]] = acting[where[single]]
    place, window = (acting[where] & ~single.unsqueeze(1)).nonzero(as_tuple=True)
    if len(place):
        asked = rows[where[place]]
        with_window = pasted(state.images[asked], windows[window], pictures[place])[:, 0]
        found[where[place], window] = (yield from state.oracle.ask(asked, with_window)) != alone[place]
    return found


def _test_parts(
    state: State,
    rows: Tensor,
    parts: Tensor,
    brings: Tensor,
    *,
    most: int,
    grids: Sequence[int],
    all_to_all: AllToAllConfig | None,
) -> Rounds[Tensor]:
    """Test the parts of a window, ``(R, K, g, g)``, that change the label one after the other.

    brings: ``(R,)`` bool, whether the window gives clouds its label, as its part then has to; else the part must change
    the labels of copies, as the window did. most: so many parts are tested, the first ones.

    Settles the images of which one passes, and returns the others, ``(N,)`` int64.
    """
    restored = yield from state.restore(rows, parts)
    labels = yield from state.oracle.ask(rows, restored)
    changed = labels != state.original[rows].unsqueeze(1)
    _keep_map(state, rows, parts, changed)
    tested = changed & (changed.cumsum(dim=1) <= most)
    for number in range(parts.shape[1]):
        where = (tested[:, number] & ~state.settled[rows]).nonzero().squeeze(1)
        if not len(where):
            continue
        tried, part = rows[where], parts[where, number]
        attempt = Attempt(restored=restored[where, number], hidden=part, labels=labels[where, number])
        found = torch.zeros_like(tried, dtype=torch.bool)
        usual, others = (chosen.nonzero().squeeze(1) for chosen in (brings[where], ~brings[where]))
        found[usual] = yield from transfer_test(
            state, tried[usual], attempt.of(usual), grids=grids, enough=len(grids), compare=False
        )
        if all_to_all is not None:
            found[others] = yield from changes_all(
                state, tried[others], part[others], attempt.restored[others], all_to_all, cloud=None
            )
        state.settle(tried[found], attempt.restored[found], part[found], attempt.labels[found])
    return rows[~state.settled[rows]]


def _keep_map(state: State, rows: Tensor, hidden: Tensor, changed: Tensor) -> None:
    """Store, for each token, the share of masks over it that changed the label.

    hidden: ``(R, K, g, g)`` bool; changed: ``(R, K)`` bool.
    """
    times = hidden.sum(dim=1)
    share = (hidden & changed[:, :, None, None]).sum(dim=1) / times.clamp(min=1)
    # Tokens that no mask hides keep their values.
    share = torch.where(times > 0, share, state.maps["label_scores"][rows])
    state.keep_maps(rows, scores=share, label_scores=share, initial_label_scores=share)
