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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Filled",
    "filled_sequences",
    "gather_tokens",
    "groups_by_count",
    "run_in_groups",
    "scatter_tokens",
    "token_order",
]


class Filled(NamedTuple):
    """Which tokens of ``B`` sequences of length ``N`` only fill them up, in two forms."""

    real: Tensor
    """``(B, N)`` bool: the others, which come first in each sequence."""
    ends: Tensor
    """``(2 B + 1,)`` int32: laid end to end, where each sequence and then what fills it up begin, and the end."""


def filled_sequences(filling: Tensor) -> Filled:
    """filling: ``(B, N)`` bool, at the end of each sequence."""
    length = filling.shape[1]
    starts = torch.arange(len(filling), device=filling.device) * length
    real = ~filling
    # (B,), (B,) -> (B, 2) -> (2 B,) -> (2 B + 1,)
    ends = torch.stack([starts + real.sum(dim=1), starts + length], dim=1).flatten()
    return Filled(real, F.pad(ends, (1, 0)).int())


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
