"""Topology-aware refinement (section 4.3, Alg. 2): test connected sets of suspicious tokens, sharpen their scores."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["connected_sets", "top_tokens", "updated_scores"]


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
    grown = torch.zeros_like(candidates)
    for addition in range(int(sizes.max()) if len(sizes) else 0):
        value = scores
        if addition > 0:
            value = (scores + neighbour_bonus * _adjacent(grown)) * noise[:, addition - 1].view_as(scores)
        best = value.masked_fill(~candidates | grown, -torch.inf).flatten(1).argmax(dim=1)
        growing = (sizes > addition).unsqueeze(1)
        grown = grown | torch.zeros_like(grown).flatten(1).scatter(1, best.unsqueeze(1), growing).view_as(grown)
    return grown


def updated_scores(scores: Tensor, tested: Tensor, candidates: Tensor, flipped: Tensor, rate: float) -> Tensor:
    """Raise the tested tokens and lower the other candidates if hiding them flipped the label, else the reverse.

    scores: ``(N, g, g)``; tested, candidates: ``(N, g, g)`` bool; flipped: ``(N,)`` bool; rate: beta_0.
    Returns ``(N, g, g)``; the sum of each map stays the same when half of its candidates were tested.
    Source: Alg. 2 lines 7-8.
    """
    sign = torch.where(flipped, rate, -rate)[:, None, None]
    return scores + sign * (tested.float() - (candidates & ~tested).float())


def _adjacent(tokens: Tensor) -> Tensor:
    """Tokens with a 4-neighbour in the set. ``(N, g, g)`` bool -> ``(N, g, g)`` bool."""
    near = torch.zeros_like(tokens)
    near[:, 1:] |= tokens[:, :-1]
    near[:, :-1] |= tokens[:, 1:]
    near[:, :, 1:] |= tokens[:, :, :-1]
    near[:, :, :-1] |= tokens[:, :, 1:]
    return near
