"""Masks of different sizes in one batch.

A ViT encoder sees visible tokens only, so images with different numbers of them do not stack into one tensor.
They are sorted into groups with equally many visible tokens; each group runs densely, without padding or
attention masks, and nothing that one image holds can reach another. When all masks hide equally many tokens,
as in pre-training, there is one group and nothing is copied.

Where small batches are slow (a GPU), masks of nearly the same size share a batch instead: each sequence is filled
up to the longest with hidden tokens that nobody attends to.

Token sequences are ``(B, L, D)`` with ``L = g * g``, row by row; ``hidden`` here is flat: ``(B, L)`` bool.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gather_tokens", "groups_by_count", "run_in_groups", "scatter_tokens", "token_order"]


def groups_by_count(hidden: Tensor) -> list[Tensor]:
    """Indices of the images of each group, groups in ascending order of hidden tokens, images in batch order.

    hidden: ``(B, ...)`` bool. Returns int64 index vectors that together hold each of ``0 .. B-1`` once.
    """
    counts = hidden.flatten(1).sum(dim=1)
    return [(counts == count).nonzero().squeeze(1) for count in sorted(set(counts.tolist()))]


def run_in_groups(function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, hidden: Tensor) -> Tensor:
    """Apply ``function`` to each group and put the results back in batch order. Gradients flow.

    inputs: ``(B, ...)``, ``B >= 1``; hidden: ``(B, ...)`` bool. ``function`` takes inputs and masks of one
    group and returns one result for each.
    """
    groups = groups_by_count(hidden)
    if len(groups) == 1:
        return function(inputs, hidden)
    results = torch.cat([function(inputs[index], hidden[index]) for index in groups])
    # Sorted by group -> batch order.
    return results[torch.cat(groups).argsort()]


def token_order(hidden: Tensor) -> Tensor:
    """Positions of the visible tokens, ascending, then those of the hidden ones, ascending.

    hidden: ``(B, L)`` bool. Returns ``(B, L)`` int64.
    """
    # False sorts before True, and a stable sort keeps positions in order.
    return hidden.byte().argsort(dim=1, stable=True)


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """Pick tokens: ``(B, L, D)`` at ``(B, n)`` positions -> ``(B, n, D)``."""
    return tokens.gather(1, _along(positions, tokens))


def scatter_tokens(tokens: Tensor, positions: Tensor, filling: Tensor, length: int) -> Tensor:
    """Undo :func:`gather_tokens`: ``(B, n, D)`` at ``(B, n)`` positions -> ``(B, length, D)``.

    filling: broadcasts to ``(B, length, D)`` and holds the places that no token takes.
    """
    places = filling.to(tokens.dtype).expand(len(tokens), length, tokens.shape[2])
    return places.scatter(1, _along(positions, tokens), tokens)


def _along(positions: Tensor, tokens: Tensor) -> Tensor:
    # (B, n) -> (B, n, D)
    return positions.unsqueeze(2).expand(-1, -1, tokens.shape[2])
