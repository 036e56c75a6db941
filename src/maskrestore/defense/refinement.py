"""Topology-aware refinement (section 4.3, Alg. 2): test connected sets of suspicious tokens, sharpen their scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.streams import Stream

__all__ = ["chain_candidates", "connected_sets", "growth_noise", "top_tokens", "updated_scores"]


def chain_candidates(image_scores: Tensor, label_scores: Tensor, config: BDMAEConfig) -> tuple[Tensor, Tensor]:
    """The tokens that each chain may touch, and the size of the sets to test.

    image_scores, label_scores: initial S_i and S_l, ``(B, g, g)``. Returns ``(2 B, g, g)`` bool and ``(2 B,)`` int64,
    for the chains of S_i, then those of S_l. Source: section 4.3, the meta mask m_rf.

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
    ``(N, max(sizes) - 1, g * g)``, 0 where a set needs none.
    """
    noise = torch.zeros(len(live), max(int(sizes.max()) - 1, 0), grid * grid)
    for row, chain in enumerate(live.tolist()):
        which, image = divmod(chain, len(streams))
        rows = int(sizes[chain]) - 1
        # Counter 0 belongs to the scoring masks.
        noise[row, :rows] = streams[image].uniform(1 + which, step, shape=(rows, grid * grid))
    return noise


def top_tokens(scores: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` highest-scoring tokens of each map: the candidates that refinement may touch.

    scores: ``(N, g, g)``; counts: ``(N,)`` int64. Returns ``(N, g, g)`` bool. Among equal scores the first in
    reading order wins.
    """
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < counts.unsqueeze(1)).view_as(scores)


def connected_sets(scores: Tensor, candidates: Tensor, sizes: Tensor, noise: Tensor, neighbour_bonus: float) -> Tensor:
    """Grow a set of candidates in each map: high scores first, neighbours of the set preferred, chance mixed in.

    Starts at the highest-scoring candidate, then repeatedly adds the candidate that maximises
    ``(S + u [next to the set]) * U(0, 1)``.

    scores: ``(N, g, g)``; candidates: ``(N, g, g)`` bool; sizes: ``(N,)`` int64, each at most its number of
    candidates; noise: ``(N, A, g * g)`` uniform numbers with ``A >= max(sizes) - 1``, a row for each addition;
    neighbour_bonus: u. Returns ``(N, g, g)`` bool with ``sizes`` tokens each.

    Departure: the authors' code may start outside the candidates; here the start is the best candidate.
    """
    # The largest first: those that still grow are then the first so many.
    order = sizes.argsort(descending=True)
    neighbours = _neighbours(scores.shape[-1]).to(scores.device)
    scores, closed = scores.flatten(1)[order], ~candidates.flatten(1)[order]  # (N, T)
    bonus = scores.new_zeros(len(scores), scores.shape[1] + 1)  # the last place is for no neighbour
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
    """Places of the 4 neighbours of each token, ``(g * g, 4)`` int64; ``g * g`` stands for none, beyond the border."""
    places = torch.full((grid + 2, grid + 2), grid * grid)
    places[1:-1, 1:-1] = torch.arange(grid * grid).view(grid, grid)
    around = (places[:-2, 1:-1], places[2:, 1:-1], places[1:-1, :-2], places[1:-1, 2:])
    return torch.stack(around, dim=-1).flatten(0, 1)
