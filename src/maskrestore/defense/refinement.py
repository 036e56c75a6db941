"""Topology-aware refinement (section 4.3, Alg. 2): test connected sets of suspicious tokens, adjust their scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.runtime.settings import check, check_types
from maskrestore.runtime.threads import run_on_one_core

__all__ = [
    "RefinementConfig",
    "chain_candidates",
    "connected_sets",
    "growth_noise",
    "refine",
    "top_tokens",
    "updated_scores",
]


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """Topology-aware refinement (4.3). Raises ConfigError."""

    steps: int = 10
    """N_r: steps of refinement of each score (4.3)."""
    candidate_threshold: float = 0.2
    """S_i at or above this makes a token a candidate for the refinement of S_i (4.3)."""
    neighbour_bonus: float = 0.5
    """u: added to the score of tokens next to the growing set (4.3, F.1)."""
    rate: float = 0.05
    """beta_0: change of the score of a candidate in one step (Alg. 2)."""

    def __post_init__(self) -> None:
        check_types(self)
        check(self.steps >= 1, "refinement.steps", "at least 1 (refinement=None switches it off)", self.steps)
        finite = math.isfinite(self.candidate_threshold)
        check(finite, "refinement.candidate_threshold", "finite", self.candidate_threshold)
        check(self.neighbour_bonus >= 0, "refinement.neighbour_bonus", "at least 0", self.neighbour_bonus)
        check(self.rate >= 0, "refinement.rate", "at least 0", self.rate)

    @property
    def max_queries(self) -> int:
        """The most queries for an image: one in each step, for each of the two scores."""
        return 2 * self.steps


def refine(
    state: State, rows: Tensor, image_scores: Tensor, label_scores: Tensor, config: RefinementConfig
) -> Rounds[tuple[Tensor, Tensor]]:
    """Refine S_i and S_l of some images, ``(R, g, g)`` each, in the same rounds. Returns both. Source: Alg. 2."""
    count, streams = len(rows), state.streams(rows)
    scores = torch.cat([image_scores, label_scores])  # (2 R, g, g): a chain of steps for each S_i, then for each S_l
    candidates, sizes = chain_candidates(image_scores, label_scores, config)
    live = (sizes > 0).nonzero().squeeze(1)
    chains = rows[live % count]
    noises = (growth_noise(streams, live, sizes, step, state.grid) for step in range(config.steps if len(live) else 0))
    following = next(noises, None)
    while (noise := following) is not None:
        grow = functools.partial(connected_sets, scores[live], candidates[live], sizes[live], noise)
        tested = run_on_one_core(functools.partial(grow, config.neighbour_bonus))
        restored = yield from state.restore(chains, tested)
        following = next(noises, None)  # drawn while a GPU restores
        flipped = (yield from state.oracle.ask(chains, restored)) != state.original[chains]
        scores[live] = updated_scores(scores[live], tested, candidates[live], flipped, config.rate)
    return scores[:count], scores[count:]


def chain_candidates(image_scores: Tensor, label_scores: Tensor, config: RefinementConfig) -> tuple[Tensor, Tensor]:
    """The candidates of each chain, and the size of the sets to test.

    image_scores, label_scores: initial S_i and S_l, ``(B, g, g)``. Returns ``(2 B, g, g)`` bool and ``(2 B,)`` int64,
    first for S_i, then for S_l. Source: section 4.3, the meta mask m_rf.

    Departure: L is rounded down to an even number, so that set and complement are of equal size and the sum of S
    stays the same, as section 4.3 says it does.
    """
    suspicious = (image_scores >= config.candidate_threshold).flatten(1).sum(dim=1)  # L of S_i
    flips = label_scores.flatten(1).sum(dim=1).floor().long()  # L of S_l
    sizes = torch.cat([suspicious, flips]) // 2
    return top_tokens(torch.cat([image_scores, label_scores]), 2 * sizes), sizes


def growth_noise(streams: Sequence[Stream], live: Tensor, sizes: Tensor, step: int, grid: int) -> Tensor:
    """Uniform numbers for :func:`connected_sets`, from the streams of ``B`` images.

    live: ``(N,)`` int64, the chains that are refined, of ``2 B``; sizes: ``(2 B,)`` int64, of their sets. Returns
    ``(N, max(sizes) - 1, g * g)``, 0 where a smaller set needs no numbers.
    """
    noise = torch.zeros(len(live), max(int(sizes.max()) - 1, 0), grid * grid)
    for row, chain in enumerate(live.tolist()):
        which, image = divmod(chain, len(streams))
        rows = int(sizes[chain]) - 1
        # Path 0 of a stream is used by the scoring masks.
        noise[row, :rows] = streams[image].uniform(1 + which, step, shape=(rows, grid * grid))
    return noise


def top_tokens(scores: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` tokens with the highest scores of each map: the candidates of refinement.

    scores: ``(N, g, g)``; counts: ``(N,)`` int64. Returns ``(N, g, g)`` bool. Among equal scores the first in
    reading order wins.
    """
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < counts.unsqueeze(1)).view_as(scores)


def connected_sets(scores: Tensor, candidates: Tensor, sizes: Tensor, noise: Tensor, neighbour_bonus: float) -> Tensor:
    """Grow a random set of candidates in each map, with a preference for high scores and neighbours of the set.

    Starts at the candidate with the highest score, then repeatedly adds the candidate that maximises
    ``(S + u [next to the set]) * U(0, 1)``.

    scores: ``(N, g, g)``; candidates: ``(N, g, g)`` bool; sizes: ``(N,)`` int64, each at most its number of
    candidates; noise: ``(N, A, g * g)`` uniform numbers with ``A >= max(sizes) - 1``, a row for each addition;
    neighbour_bonus: u. Returns ``(N, g, g)`` bool with ``sizes`` tokens each.

    Departure: the authors' code may start outside the candidates; here the start is the best candidate.
    """
    # Sorted by size, so that the sets that still grow are always the first rows.
    order = sizes.argsort(descending=True)
    neighbours = _neighbours(scores.shape[-1]).to(scores.device)
    scores, closed = scores.flatten(1)[order], ~candidates.flatten(1)[order]  # (N, T)
    bonus = scores.new_zeros(len(scores), scores.shape[1] + 1)  # the last place stands for "no neighbour"
    largest = int(sizes.max()) if len(sizes) else 0
    growing = (sizes.unsqueeze(1) > torch.arange(largest, device=sizes.device)).sum(dim=0)
    for addition, count in enumerate(growing.tolist()):
        value = scores[:count]
        if addition > 0:
            value = (value + bonus[:count, :-1]) * noise[order[:count], addition - 1]
        best = value.masked_fill(closed[:count], -torch.inf).argmax(dim=1)
        closed[:count].scatter_(1, best.unsqueeze(1), value=True)
        bonus[:count].scatter_(1, neighbours[best], neighbour_bonus)
    grown = torch.empty_like(closed)
    grown[order] = closed
    return candidates & grown.view_as(candidates)


def updated_scores(scores: Tensor, tested: Tensor, candidates: Tensor, flipped: Tensor, rate: float) -> Tensor:
    """Raise the tested tokens and lower the other candidates if hiding them flipped the label, else the reverse.

    scores: ``(N, g, g)``; tested, candidates: ``(N, g, g)`` bool; flipped: ``(N,)`` bool; rate: beta_0.
    Returns ``(N, g, g)``; the sum of each map stays the same when half of its candidates were tested.
    Source: Alg. 2 lines 7-8.
    """
    sign = torch.where(flipped, rate, -rate)[:, None, None]
    return scores + sign * (tested.float() - (candidates & ~tested).float())


@functools.cache
def _neighbours(grid: int) -> Tensor:
    """Indices of the 4 neighbours of each token, ``(g * g, 4)`` int64; ``g * g`` where one is outside the grid."""
    places = torch.full((grid + 2, grid + 2), grid * grid)
    places[1:-1, 1:-1] = torch.arange(grid * grid).view(grid, grid)
    around = (places[:-2, 1:-1], places[2:, 1:-1], places[1:-1, :-2], places[1:-1, 2:])
    return torch.stack(around, dim=-1).flatten(0, 1)
