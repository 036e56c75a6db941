"""Group testing: hide windows, and look closer only where the label changes.

A trigger that is small enough lies wholly inside one of nine windows. They are hidden in four pairs and a single one;
an image whose label none of the five changes has no such trigger. Else the pairs are split, and the windows that change
the label are put on clouds of random colour: a region that does nothing there is no trigger (see ``transfer.py``). If
it does, and it is one window, four parts of it are hidden in turn, and the first that passes the transfer test is taken
for the trigger. Most images are settled so, with 6 to 20 queries. What several places do together, and images near a
decision boundary, are left to the random masks.

Triggers with a target for each class bring no label along, and are not looked for: comparing what regions as large as
these do to other pictures mistook 1 to 4 % of clean GTSRB training images for triggered ones. Departure: not in the
paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.transfer import Attempt, on_clouds, transfer_queries, transfer_test
from maskrestore.defense.state import Case
from maskrestore.types import Classifier, Restorer

__all__ = ["covering_squares", "sweep", "sweep_queries"]

SMALLEST_GRID = 4
"""Tokens along a side; on smaller grids nine windows would be the same ones again."""
GROUPS = ((0, 8), (2, 6), (1, 7), (3, 5), (4,))
"""Windows, in reading order, that are hidden together: opposite ones, and the middle."""
SPLIT = 2
"""Groups that are split, at most: where more change the label, everything does."""
PARTS = 4
"""Parts of a window at most, two along each side; a window of three tokens or less is its only part."""


def covering_squares(length: int, count: int, overlap: int) -> tuple[int, list[int]]:
    """Side and first places of ``count`` equal stretches that cover ``length`` places and overlap by at least so many.

    A run of up to ``overlap + 1`` places then lies wholly inside one of them.
    """
    side = min(length, -(-(length + (count - 1) * overlap) // count))  # ceil
    return side, [round(number * (length - side) / (count - 1)) for number in range(count)]


def sweep(case: Case, restorer: Restorer, classifier: Classifier, *, grids: Sequence[int]) -> None:
    """Settle what can be settled by hiding windows, in place; the others stay open.

    grids: colours along the sides of the clouds for a region. The map of an image, as S_l and S, is the share of the
    groups at each token that changed the label, and of the parts where those were hidden; windows of a group that was
    split do not count again. On a grid of less than 4 tokens a side, everything stays open.
    """
    if restorer.grid >= SMALLEST_GRID:
        _Sweep(case, restorer, classifier, grids).run()


def sweep_queries(clouds: int) -> tuple[int, int]:
    """Queries at most, its own label included, for an image that a sweep settles, and for one that it leaves open."""
    seen = 1 + len(GROUPS) + 2 * SPLIT + transfer_queries(clouds, compare=False)
    return seen + PARTS * (1 + transfer_queries(clouds, compare=False)), seen


@dataclass(frozen=True)
class _Sweep:
    case: Case
    restorer: Restorer
    classifier: Classifier
    grids: Sequence[int]

    def run(self) -> None:
        case, grid = self.case, self.restorer.grid
        side, places = covering_squares(grid, 3, 1)
        corners = torch.cartesian_prod(torch.tensor(places), torch.tensor(places))  # (9, 2)
        windows = _squares(corners, side, grid)
        rows = case.open
        changed = self._hide_groups(rows, windows)
        changes = changed.sum(dim=1)
        case.settled[rows] = changes == 0
        few = (changes > 0) & (changes <= SPLIT)
        rows = rows[few]
        guilty = self._split(rows, changed[few], windows)  # (R, 9)
        if not len(rows):
            return
        region = (guilty[:, :, None, None] & windows).any(dim=1)
        streams = [case.streams[row] for row in rows]
        seen = on_clouds(
            case.images[rows],
            region,
            case.original[rows],
            streams,
            self.classifier,
            grids=self.grids,
            enough=len(self.grids),
            compare=False,
        )
        case.queries[rows] += seen.queries
        case.settled[rows] = ~seen.brings
        one = (guilty.sum(dim=1) == 1) & ~case.settled[rows]
        if one.any():
            part, offsets = covering_squares(side, 2, 2)
            inner = torch.tensor(sorted(set(itertools.product(offsets, offsets))))
            window = guilty[one].long().argmax(dim=1)
            parts = torch.stack([_squares(corner + inner, part, grid) for corner in corners[window]])
            self._test_parts(rows[one], parts)

    def _hide(self, rows: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hide ``(R, K, g, g)`` in images; returns ``(R, K, C, H, W)`` and their labels ``(R, K)``."""
        restored = self.restorer.restore(self.case.prepared[rows], hidden)
        labels = self.classifier(restored.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        self.case.queries.index_add_(0, rows, torch.full_like(rows, hidden.shape[1]))
        return restored, labels

    def _note(self, rows: Tensor, hidden: Tensor, changed: Tensor) -> None:
        times = hidden.sum(dim=1)
        share = (hidden & changed[:, :, None, None]).sum(dim=1) / times.clamp(min=1)
        # Where these squares do not reach, the map stays as it was.
        share = torch.where(times > 0, share, self.case.maps["label_scores"][rows])
        self.case.keep(rows, scores=share, label_scores=share, initial_label_scores=share)

    def _hide_groups(self, rows: Tensor, windows: Tensor) -> Tensor:
        """Which groups of windows change the label: ``(R, 5)`` bool."""
        groups = torch.stack([windows[list(group)].any(dim=0) for group in GROUPS])
        hidden = groups.expand(len(rows), -1, -1, -1)
        changed = self._hide(rows, hidden)[1] != self.case.original[rows].unsqueeze(1)
        self._note(rows, hidden, changed)
        return changed

    def _split(self, rows: Tensor, changed: Tensor, windows: Tensor) -> Tensor:
        """Which windows of groups that changed the label do so alone: ``(R, 9)`` bool; both of a pair if neither does.

        changed: ``(R, 5)`` bool; windows: ``(9, g, g)``.
        """
        guilty = torch.zeros(len(rows), len(windows), dtype=torch.bool)
        members = [(row, GROUPS[number]) for row, number in changed.nonzero().tolist()]
        for row, group in members:
            guilty[row, list(group)] = True
        pairs = torch.tensor([[row, window] for row, group in members if len(group) > 1 for window in group])
        if len(pairs):
            where, window = pairs.unbind(dim=1)
            labels = self._hide(rows[where], windows[window].unsqueeze(1))[1].squeeze(1)
            alone = labels != self.case.original[rows[where]]
            neither = ~alone.view(-1, 2).any(dim=1).repeat_interleave(2)
            guilty[where, window] = alone | neither
        return guilty

    def _test_parts(self, rows: Tensor, parts: Tensor) -> None:
        """Give the parts ``(R, K, g, g)`` of a window that change the label the transfer test, one after the other, and
        settle the images."""
        case = self.case
        restored, labels = self._hide(rows, parts)
        changed = labels != case.original[rows].unsqueeze(1)
        self._note(rows, parts, changed)
        for number in range(parts.shape[1]):
            where = (changed[:, number] & ~case.settled[rows]).nonzero().squeeze(1)
            if not len(where):
                continue
            asked = rows[where]
            attempt = Attempt(
                images=case.images[asked],
                restored=restored[where, number],
                hidden=parts[where, number],
                before=case.original[asked],
                after=labels[where, number],
                streams=[case.streams[row] for row in asked],
            )
            enough = len(self.grids)
            believed, queries = transfer_test(attempt, self.classifier, grids=self.grids, enough=enough, compare=False)
            case.queries[asked] += queries
            case.take(asked, attempt, believed)
        case.settled[rows] = True


def _squares(corners: Tensor, side: int, grid: int) -> Tensor:
    """``(K, 2)`` first rows and columns -> ``(K, g, g)`` bool."""
    place = torch.arange(grid)
    within = (place >= corners[..., None]) & (place < corners[..., None] + side)  # (K, 2, g)
    return within[:, 0, :, None] & within[:, 1, None, :]
