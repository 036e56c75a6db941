"""Group testing: hide window after window, and look closer only where the label changes.

A trigger that is small enough lies wholly inside one of nine windows, so hiding that one gives the true label back, and
an image whose label no window changes has no such trigger. Where exactly one window changes it, four parts of it are
hidden in turn; a part that changes the label is a trigger if it passes the transfer test, and else a piece of an
ordinary image. Most images are settled so with 10 to 17 queries. Those that several windows change (triggers in
several places, images near a decision boundary) are left to the random masks. Departure: not in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.defense.case import Case
from maskrestore.defense.transfer import Attempt, transfer_queries, transfer_test
from maskrestore.types import Classifier, Restorer

__all__ = ["PARTS", "WINDOWS", "covering_squares", "sweep", "sweep_queries"]

WINDOWS = 9
"""Windows of a sweep, three along each side."""
PARTS = 4
"""Parts of a window, two along each side."""


def covering_squares(length: int, count: int, overlap: int) -> tuple[int, list[int]]:
    """Side and first places of ``count`` equal stretches that cover ``length`` places and overlap by at least so many.

    A run of up to ``overlap + 1`` places then lies wholly inside one of them.
    """
    side = min(length, -(-(length + (count - 1) * overlap) // count))  # ceil
    return side, [round(number * (length - side) / (count - 1)) for number in range(count)]


def sweep(case: Case, restorer: Restorer, classifier: Classifier, *, clouds: int, compare: bool) -> None:
    """Settle what can be settled by hiding windows, in place; the others stay open.

    clouds: pictures of each transfer test. compare: where no part passes, look for a trigger with a target for each
    class in the first part that changes the label. The map of an image, as S_l and S, is the share of the hidden
    squares at each token that changed the label.
    """
    rows, grid = case.open, restorer.grid
    side, places = covering_squares(grid, 3, 1)
    corners = torch.cartesian_prod(torch.tensor(places), torch.tensor(places))  # (K, 2)
    windows = _Look(case, rows, _squares(corners, side, grid).expand(len(rows), -1, -1, -1), restorer, classifier)
    changes = windows.changed.sum(dim=1)
    case.settled[rows] = changes == 0
    rows, window = rows[changes == 1], windows.changed[changes == 1].long().argmax(dim=1)
    if not len(rows):
        return
    part, offsets = covering_squares(side, 2, 2)
    inner = torch.cartesian_prod(torch.tensor(offsets), torch.tensor(offsets))
    parts = torch.stack([_squares(corner + inner, part, grid) for corner in corners[window]])
    look = _Look(case, rows, parts, restorer, classifier)
    for number in range(PARTS):
        look.test(look.changed[:, number], torch.full_like(rows, number), clouds, compare=False)
    if compare:
        look.test(look.changed.any(dim=1), look.changed.long().argmax(dim=1), clouds, compare=True)
    case.settled[rows] = True


def sweep_queries(clouds: int, *, compare: bool) -> int:
    """Queries for an image that a sweep settles, at most, its own label included."""
    tests = PARTS * transfer_queries(clouds, compare=False)
    return 1 + WINDOWS + PARTS + tests + (transfer_queries(clouds, compare=True) if compare else 0)


class _Look:
    """Squares that were hidden in some images of a case, and what the classifier said."""

    def __init__(self, case: Case, rows: Tensor, hidden: Tensor, restorer: Restorer, classifier: Classifier) -> None:
        """rows: ``(R,)``; hidden: ``(R, K, g, g)``."""
        self._case, self._rows, self._hidden, self._classifier = case, rows, hidden, classifier
        self._restored = restorer.restore(case.images[rows], hidden)  # (R, K, C, H, W)
        self._labels = classifier(self._restored.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        case.queries[rows] += hidden.shape[1]
        self.changed = self._labels != case.original[rows].unsqueeze(1)
        """``(R, K)`` bool."""
        times = hidden.sum(dim=1)
        share = (hidden & self.changed[:, :, None, None]).sum(dim=1) / times.clamp(min=1)
        # Where these squares do not reach, the map stays as it was.
        share = torch.where(times > 0, share, case.maps["label_scores"][rows])
        case.keep(rows, scores=share, label_scores=share, initial_label_scores=share)

    def test(self, wanted: Tensor, number: Tensor, clouds: int, *, compare: bool) -> None:
        """Give square ``number``, ``(R,)``, of ``wanted`` images, ``(R,)`` bool, that are open the transfer test."""
        case = self._case
        where = (wanted & ~case.settled[self._rows]).nonzero().squeeze(1)
        if not len(where):
            return
        rows, square = self._rows[where], number[where]
        attempt = Attempt(
            images=case.images[rows],
            restored=self._restored[where, square],
            hidden=self._hidden[where, square],
            before=case.original[rows],
            after=self._labels[where, square],
            streams=[case.streams[row] for row in rows],
        )
        believed, queries = transfer_test(attempt, self._classifier, count=clouds, compare=compare)
        case.queries[rows] += queries
        case.take(rows, attempt, believed)


def _squares(corners: Tensor, side: int, grid: int) -> Tensor:
    """``(K, 2)`` first rows and columns -> ``(K, g, g)`` bool."""
    place = torch.arange(grid)
    within = (place >= corners[..., None]) & (place < corners[..., None] + side)  # (K, 2, g)
    return within[:, 0, :, None] & within[:, 1, None, :]
