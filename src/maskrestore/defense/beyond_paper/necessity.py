"""Is the region needed? The image must lose its label, too, when clouds take its place or it is shown coarsely.

The transfer test (``transfer.py``) asks whether a region is enough to decide the label of other pictures. A large part
of an ordinary image often is: half a truck makes a truck of any picture. But the rest of that image has the label as
well, and loses it only because something else was restored. A trigger is needed: without it the label is gone,
whatever takes its place. So a restoration that passed the transfer test is given up if the image keeps its label with
clouds of random colour in the place of the region.

It is also given up if the image keeps its label with the region shown coarsely (``objects.py``), since it then shows an
object. But a plain patch, such as a white one, outlives that, too. What tells it from an object is size: its few tokens
are enough, on pixel noise, and those of an object are not. Then the restoration is believed all the same.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import check_cloud_grids, clouds, pasted
from maskrestore.defense.beyond_paper.objects import at_resolution, shows_object
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.runtime.settings import check, check_types

__all__ = ["NecessityConfig", "is_needed"]


@dataclass(frozen=True, kw_only=True)
class NecessityConfig:
    """A coarse region, and clouds in its place, for restorations that passed the transfer test. Raises ConfigError."""

    cloud_grids: tuple[int, ...] = (20, 12, 8)
    """Number of colours along a side, for each cloud. A region is not needed if the image keeps its label on all."""
    large: float = 0.15
    """Share of the tokens above which clouds take the place of a region. Smaller ones of clean images rarely pass the
    transfer test, and some small triggers are not needed where the classifier takes the cloud for their label."""
    coarse: float | None = 0.5
    """Share of the resolution at which the region is shown. It is an object, and no trigger, if the image then keeps
    its label. ``None``: that is not asked."""
    small: float = 0.05
    """Share of the tokens up to which a region is not shown coarsely."""
    core: int = 8
    """Number of tokens of a region, those with the highest scores, that give noise the label if it is a plain patch."""
    query_limit: int = 47
    """Not asked if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        check_cloud_grids(self.cloud_grids, "necessity.cloud_grids")
        for name in ("large", "small"):
            check(0 <= getattr(self, name) <= 1, f"necessity.{name}", "in [0, 1]", getattr(self, name))
        check(self.core >= 1, "necessity.core", "at least 1", self.core)
        check(self.coarse is None or 0 < self.coarse < 1, "necessity.coarse", "in (0, 1)", self.coarse)
        check(self.query_limit >= 1, "necessity.query_limit", "at least 1", self.query_limit)


def is_needed(state: State, rows: Tensor, hidden: Tensor, config: NecessityConfig) -> Rounds[Tensor]:
    """Whether an image loses its original label without the region: ``(R,)`` bool. True if it is not asked.

    hidden: ``(R, g, g)`` bool, the region.
    """
    needed = torch.ones_like(rows, dtype=torch.bool)
    share = hidden.flatten(1).float().mean(dim=1)

    def asked_about(above: float, queries: int) -> Tensor:
        affordable = state.oracle.queries[rows] + queries <= config.query_limit
        return (needed & affordable & (share > above)).nonzero().squeeze(1)

    if config.coarse is not None and len(where := asked_about(config.small, 2)):
        coarse = at_resolution(config.coarse)
        needed[where] = ~(yield from shows_object(state, rows[where], hidden[where], coarse))
        where = where[~needed[where]]
        needed[where] = yield from _core_is_enough(state, rows[where], hidden[where], config.core)
    where = asked_about(config.large, len(config.cloud_grids))
    if not len(where):
        return needed
    asked = rows[where]
    images = state.images[asked]
    pictures = clouds(images, state.streams(asked), config.cloud_grids)
    without = pasted(images, ~hidden[where], pictures, in_place=True)
    answers = yield from state.oracle.ask(asked, without)
    needed[where] = (answers != state.original[asked].unsqueeze(1)).any(dim=1)
    return needed


def _core_is_enough(state: State, rows: Tensor, hidden: Tensor, tokens: int) -> Rounds[Tensor]:
    """Whether pixel noise gets the label of an image from the tokens of a region with the highest scores: ``(R,)``."""
    if not len(rows):
        return torch.zeros_like(rows, dtype=torch.bool)
    scores = state.maps["scores"][rows].masked_fill(~hidden, -torch.inf).flatten(1)
    highest = scores.argsort(dim=1, descending=True, stable=True)[:, :tokens]
    core = torch.zeros_like(scores, dtype=torch.bool).scatter(1, highest, True).view_as(hidden) & hidden
    images = state.images[rows]
    noise = clouds(images, state.streams(rows), (images.shape[-1],))
    labels = yield from state.oracle.ask(rows, pasted(images, core, noise, in_place=True)[:, 0])
    return labels == state.original[rows]
