"""Large faint triggers: hide whole squares, those that are restored worst first.

A faint pattern that covers a fifth of an image works as long as a good part of it is visible. Token by token it hardly
differs from the rest, and it survives where scattered tokens are hidden; hidden as one block it is gone. The random
masks tell two things about it: it is restored badly, and they change the label. So where no attempt was believed,
squares are hidden in the order of their mean S_i, if that and the share of masks that changed the label make them
suspicious. Each has to pass the transfer test. Departure: not in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.beyond_paper.transfer import TransferTestConfig, check_cloud_grids, try_restoration
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.runtime.settings import check, check_types

__all__ = ["SquaresConfig", "hide_squares", "least_restorable_squares", "square_scores"]


@dataclass(frozen=True, kw_only=True)
class SquaresConfig:
    """Which squares are hidden where every attempt failed. Raises ConfigError."""

    count: int = 5
    """Squares that are hidden, one after the other, at most."""
    side: float = 0.4375
    """Their side, as a share of that of the image; ``restoration.max_restored`` does not limit it."""
    label_weight: float = 0.25
    """Weight w of the share of random masks that changed the label in the score of a square; its mean S_i has 1 - w."""
    threshold: float = 0.425
    """Score from which a square is hidden."""
    query_limit: int = 47
    """No square is hidden if an image would then take more queries than this, in all."""
    cloud_grids: tuple[int, ...] = (32, 20, 8)
    """Colours along each side of each cloud. In images of 32 x 32 every pixel of the first is noise; a trigger of one
    pixel would be lost there."""

    def __post_init__(self) -> None:
        check_types(self)
        check(self.count >= 1, "squares.count", "at least 1 (squares=None switches them off)", self.count)
        check(0 < self.side <= 1, "squares.side", "in (0, 1]", self.side)
        check(0 <= self.label_weight <= 1, "squares.label_weight", "in [0, 1]", self.label_weight)
        check(math.isfinite(self.threshold), "squares.threshold", "finite", self.threshold)
        check(self.query_limit >= 1, "squares.query_limit", "at least 1", self.query_limit)
        check_cloud_grids(self.cloud_grids, "squares.cloud_grids")

    @property
    def price(self) -> int:
        """Queries for one square at most: its restoration and its clouds."""
        return 1 + len(self.cloud_grids)

    def max_queries(self, spent: int) -> int:
        """Queries for an image at most, in all, where ``spent`` may have been spent before."""
        return max(spent, min(spent + self.count * self.price, self.query_limit))


def hide_squares(
    state: State,
    rows: Tensor,
    image_scores: Tensor,
    changed: Tensor,
    *,
    config: SquaresConfig,
    test: TransferTestConfig,
) -> Rounds[None]:
    """Hide one suspicious square after the other, while queries last, until a restoration is believed.

    image_scores: ``(R, g, g)``, S_i; changed: ``(R,)``, the share of random masks that changed the label.
    """
    hidden = least_restorable_squares(image_scores, config.count, max(1, round(config.side * state.grid)))
    suspicious = square_scores(image_scores, hidden, changed, config.label_weight) >= config.threshold  # (R, K)
    for number in range(config.count):
        affordable = state.oracle.queries[rows] + config.price <= config.query_limit
        ask = suspicious[:, number] & affordable & ~state.settled[rows]
        if ask.any():
            asked, square = rows[ask], hidden[ask, number]
            restored = yield from state.restore(asked, square)
            yield from try_restoration(state, asked, restored, square, test, grids=config.cloud_grids)


def least_restorable_squares(image_scores: Tensor, count: int, side: int) -> Tensor:
    """Choose squares of ``side x side`` tokens, those with the highest mean S_i first.

    image_scores: ``(B, g, g)``. Returns ``hidden``: ``(B, count, g, g)`` bool. Each square lies more than half a side
    away from those before it, along one direction at least; where no place is left, the mask hides nothing.
    """
    grid = image_scores.shape[-1]
    side = min(side, grid)
    places = grid - side + 1
    # (B, g, g) -> (B, places, places) -> (B, P)
    means = F.avg_pool2d(image_scores.unsqueeze(1), side, stride=1).flatten(1)
    corner = torch.cartesian_prod(torch.arange(places), torch.arange(places)).view(-1, 2)  # (P, 2)
    apart = (corner.unsqueeze(0) - corner.unsqueeze(1)).abs().amax(dim=2) > side / 2  # (P, P)
    token = torch.arange(grid)
    inside = (token >= corner[..., None]) & (token < corner[..., None] + side)  # (P, 2, g)
    squares = inside[:, 0, :, None] & inside[:, 1, None, :]  # (P, g, g)
    hidden = []
    for _ in range(count):
        best = means.argmax(dim=1)
        left = means.gather(1, best.unsqueeze(1)) > -torch.inf  # (B, 1)
        hidden.append(squares[best] & left.unsqueeze(2))
        means = means.masked_fill(~apart[best], -torch.inf)
    return torch.stack(hidden, dim=1)


def square_scores(image_scores: Tensor, squares: Tensor, changed: Tensor, label_weight: float) -> Tensor:
    """How suspicious squares are: the weighted mean of the S_i of each and the share of masks that changed the label.

    image_scores: ``(B, g, g)``; squares: ``(B, K, g, g)`` bool; changed: ``(B,)`` in [0, 1]; label_weight: its weight,
    in [0, 1]. Returns ``(B, K)``, minus infinity for a square that hides nothing.
    """
    tokens = squares.flatten(2).sum(dim=2)
    image = (image_scores.unsqueeze(1) * squares).flatten(2).sum(dim=2) / tokens.clamp(min=1)
    return torch.where(tokens > 0, (1 - label_weight) * image + label_weight * changed.unsqueeze(1), -torch.inf)
