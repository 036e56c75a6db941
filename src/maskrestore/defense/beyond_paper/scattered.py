"""Small triggers in several places of a photograph: restore the tokens that keep the label while they are in view.

A trigger of a few pixels in several places, such as one in each corner, works as long as one of them is visible, or
two. Attempts restore one small region of a photograph (``photographs.py``), and S_i says nothing of marks that are much
smaller than a token. The random masks tell all the same: while enough of the trigger is in view, the label stays. So if
no restoration was accepted, a quarter of the tokens is restored: those under which, when they were visible, the fewest
masks changed the label. Those of the trigger are among them. The restoration has to pass the transfer test.

Departure: not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.photographs import PhotographsConfig
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig, try_restoration
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.scores import MaskAnswers
from maskrestore.defense.state import State
from maskrestore.runtime.settings import check, check_types

__all__ = ["ScatteredConfig", "changed_in_view", "hide_scattered", "tokens_that_keep"]


@dataclass(frozen=True, kw_only=True)
class ScatteredConfig:
    """Restores the tokens of a photograph that keep its label. Raises ConfigError."""

    share: float = 0.25
    """Of the tokens, in (0, 1]: so many are restored."""
    query_limit: int = 47
    """Not tried if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < self.share <= 1, "scattered.share", "in (0, 1]", self.share)
        check(self.query_limit >= 1, "scattered.query_limit", "at least 1", self.query_limit)


def hide_scattered(
    state: State,
    rows: Tensor,
    answers: MaskAnswers,
    *,
    config: ScatteredConfig,
    test: TransferTestConfig,
    photographs: PhotographsConfig | None,
) -> Rounds[None]:
    """Restore the tokens that keep the label of each image that is not settled. Others: as for ``try_restoration``."""
    affordable = state.oracle.queries[rows] + 1 + test.clouds <= config.query_limit
    where = (affordable & ~state.settled[rows] & (answers.changed > 0)).nonzero().squeeze(1)
    if not len(where):
        return
    flipped = answers.labels[where] != answers.original[where].unsqueeze(1)
    in_view = changed_in_view(flipped, answers.hidden[where])
    hidden = tokens_that_keep(in_view, answers.label_scores[where], config.share)
    restored = yield from state.restore(rows[where], hidden)
    yield from try_restoration(state, rows[where], restored, hidden, test, photographs=photographs)


def changed_in_view(flipped: Tensor, hidden: Tensor) -> Tensor:
    """Of the masks that left a token visible, the share that changed the label: ``(R, g, g)`` in [0, 1].

    flipped: ``(R, M)`` bool; hidden: ``(R, M, g, g)`` bool. 0 for a token that was never visible.
    """
    visible = ~hidden
    return (visible & flipped[:, :, None, None]).sum(dim=1) / visible.sum(dim=1).clamp(min=1)


def tokens_that_keep(in_view: Tensor, label_scores: Tensor, share: float) -> Tensor:
    """The tokens under which the fewest masks changed the label when they were visible: ``(R, g, g)`` bool.

    in_view: ``(R, g, g)``, of :func:`changed_in_view`. label_scores: ``(R, g, g)``, S_l, which decides among equal
    ones.
    """
    grid = in_view.shape[-1]
    by_score = label_scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    among = in_view.flatten(1).gather(1, by_score).argsort(dim=1, stable=True)
    chosen = by_score.gather(1, among[:, : max(1, round(share * grid * grid))])
    hidden = torch.zeros(len(chosen), grid * grid, dtype=torch.bool).scatter(1, chosen, True)
    return hidden.view(-1, grid, grid)
