"""Large faint triggers: hide whole squares, beginning with those that are restored worst.

A faint pattern that covers a fifth of an image works as long as a large part of it is visible. A single token of it
hardly differs from the rest of the image, and hiding scattered tokens does not break it; hiding one large block does.
The random masks give two hints: the pattern is restored badly, and many masks change the label. So if nothing was
accepted yet, squares are hidden in the order of their mean S_i, as long as it and the share of masks that changed the
label are high enough. Each restoration has to pass the transfer test.

A faint pattern needs no restoration, which has to guess the content of a fifth of the image: a filter is enough. So
if a square passed the test and the filter ``fine`` takes its effect, too, the filtered image and its label are the
answer. Squares of photographs are ``blurred`` at once: what that removes is a better test than the square itself,
which may show an object. The filters and their test are those of ``whole_image.py``; without them squares are restored.
After group testing most photographs get no random mask. If a blur of the whole changes the label, the squares that are
restored worst are blurred, whatever their score: S_i needs no query.

Departure: not in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import check_cloud_grids
from maskrestore.defense.beyond_paper.necessity import NecessityConfig
from maskrestore.defense.beyond_paper.photographs import PhotographsConfig
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig, try_restoration
from maskrestore.defense.beyond_paper.whole_image import WholeImageConfig, try_filter
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.patches import square_masks
from maskrestore.runtime.settings import check, check_types

__all__ = ["SquaresConfig", "filter_least_restorable", "hide_squares", "least_restorable_squares", "square_scores"]

_FAINT = "fine"
"""The filter of small images that is tried on a square that was accepted."""


@dataclass(frozen=True, kw_only=True)
class SquaresConfig:
    """Which squares are hidden if nothing was accepted yet. Raises ConfigError."""

    count: int = 5
    """The most squares that are hidden, one after the other."""
    side: float = 0.4375
    """Side of a square as a share of the side of the image. ``restoration.max_restored`` does not limit it."""
    label_weight: float = 0.25
    """Weight w: the score of a square is (1 - w) times its mean S_i plus w times the share of masks that changed the
    label."""
    threshold: float = 0.425
    """A square with this score or a higher one is hidden. Not for those before the masks."""
    query_limit: int = 47
    """No square is hidden if the image would then need more queries than this in all."""
    cloud_grids: tuple[int, ...] = (32, 20, 8)
    """Number of colours along a side, for each cloud, if squares are restored. In images of 32 x 32 the first cloud is
    noise in every pixel, in which a trigger of one pixel would be lost."""

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
        """The most queries for one square: one for its restoration and one for each cloud."""
        return 1 + len(self.cloud_grids)

    def tokens(self, grid: int) -> int:
        """Tokens along a side of a square, of ``grid`` along a side of the image."""
        return max(1, round(self.side * grid))

    def for_photographs(self, photographs: PhotographsConfig) -> SquaresConfig:
        """The settings for photographs."""
        return replace(self, side=photographs.square_side, count=min(self.count, photographs.square_count))


def hide_squares(
    state: State,
    rows: Tensor,
    image_scores: Tensor,
    changed: Tensor,
    *,
    config: SquaresConfig,
    test: TransferTestConfig,
    photographs: PhotographsConfig | None,
    filters: WholeImageConfig | None = None,
    necessity: NecessityConfig | None = None,
) -> Rounds[None]:
    """Hide one suspicious square after the other until one is accepted or the query limit is reached.

    image_scores: ``(R, g, g)``, S_i; changed: ``(R,)``, the share of random masks that changed the label. filters: may
    take the place of restorations; ``None``: none. test, photographs, necessity: as for :func:`try_restoration`.
    """
    if photographs is not None:
        config = config.for_photographs(photographs)
    hidden = least_restorable_squares(image_scores, config.count, config.tokens(state.grid))
    scores = square_scores(image_scores, hidden, changed, config.label_weight)  # (R, K)
    suspicious = scores >= config.threshold
    if photographs is not None:
        suspicious &= scores >= scores[:, :1] - photographs.square_margin
    if photographs is not None and filters is not None:
        filters = replace(filters, query_limit=config.query_limit)
        for number, ask in enumerate(suspicious.T):
            for name in filters.filters:
                yield from try_filter(state, rows[ask], hidden[ask, number], name, filters)
        return
    instead = _FAINT if filters is not None and _FAINT in filters.filters else None
    kept = 0 if necessity is None else 2  # of the queries, to see at least whether the square shows an object
    for number in range(config.count):
        affordable = state.oracle.queries[rows] + config.price + kept <= config.query_limit
        ask = suspicious[:, number] & affordable & ~state.settled[rows]
        if ask.any():
            asked, square = rows[ask], hidden[ask, number]
            restored = yield from state.restore(asked, square)
            yield from try_restoration(
                state,
                asked,
                restored,
                square,
                test,
                grids=config.cloud_grids,
                photographs=photographs,
                necessity=necessity,
                instead=instead,
                query_limit=config.query_limit,
            )


def filter_least_restorable(
    state: State, rows: Tensor, image_scores: Tensor, name: str, *, config: SquaresConfig, filters: WholeImageConfig
) -> Rounds[None]:
    """Filter the least restorable squares of photographs whose label a filter of the whole changes.

    image_scores: ``(R, g, g)``, S_i. name: of the filter. config: for photographs.
    """
    hidden = least_restorable_squares(image_scores, config.count, config.tokens(state.grid))
    filters = replace(filters, query_limit=config.query_limit)
    for square in hidden.unbind(dim=1):
        some = square.flatten(1).any(dim=1)
        yield from try_filter(state, rows[some], square[some], name, filters)


def least_restorable_squares(image_scores: Tensor, count: int, side: int) -> Tensor:
    """Choose squares of ``side x side`` tokens, those with the highest mean S_i first.

    image_scores: ``(B, g, g)``. Returns ``hidden``: ``(B, count, g, g)`` bool. Each square is more than half a side
    away from those before it, along one direction at least. If no such place is left, the mask hides nothing.
    """
    grid = image_scores.shape[-1]
    side = min(side, grid)
    places = grid - side + 1
    # (B, g, g) -> (B, places, places) -> (B, P)
    means = F.avg_pool2d(image_scores.unsqueeze(1), side, stride=1).flatten(1)
    corner = torch.cartesian_prod(torch.arange(places), torch.arange(places)).view(-1, 2)  # (P, 2)
    apart = (corner.unsqueeze(0) - corner.unsqueeze(1)).abs().amax(dim=2) > side / 2  # (P, P)
    squares = square_masks(corner, side, grid)  # (P, g, g)
    hidden = []
    for _ in range(count):
        best = means.argmax(dim=1)
        left = means.gather(1, best.unsqueeze(1)) > -torch.inf  # (B, 1)
        hidden.append(squares[best] & left.unsqueeze(2))
        means = means.masked_fill(~apart[best], -torch.inf)
    return torch.stack(hidden, dim=1)


def square_scores(image_scores: Tensor, squares: Tensor, changed: Tensor, label_weight: float) -> Tensor:
    """Scores of squares: the weighted mean of their S_i and the share of masks that changed the label.

    image_scores: ``(B, g, g)``; squares: ``(B, K, g, g)`` bool; changed: ``(B,)`` in [0, 1]; label_weight: its weight,
    in [0, 1]. Returns ``(B, K)``, minus infinity for a square that hides nothing.
    """
    tokens = squares.flatten(2).sum(dim=2)
    image = (image_scores.unsqueeze(1) * squares).flatten(2).sum(dim=2) / tokens.clamp(min=1)
    return torch.where(tokens > 0, (1 - label_weight) * image + label_weight * changed.unsqueeze(1), -torch.inf)
