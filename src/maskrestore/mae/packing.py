"""Process masks that hide different numbers of tokens in one batch.

A ViT encoder takes visible tokens only, so images with different numbers of visible tokens do not fit into one tensor.
There are two ways to deal with this:

- Groups: images with the same number of visible tokens form a group, and each group is processed on its own, without
  padding or attention masks. If all masks hide the same number of tokens, as in pre-training, there is one group and
  nothing is copied.
- Padding: where small batches are slow, as on a GPU, masks of similar size share a batch. Each sequence is padded to
  the longest one with hidden tokens, and attention ignores the padding.

Token sequences are ``(B, L, D)`` with ``L = g * g``, row by row; ``hidden`` is flat here: ``(B, L)`` bool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "SequencePadding",
    "gather_tokens",
    "groups_by_count",
    "run_in_groups",
    "scatter_tokens",
    "sequence_padding",
    "token_order",
]


class SequencePadding(NamedTuple):
    """Which tokens of ``B`` sequences of length ``N`` are padding, in the two forms that attention kernels take."""

    real: Tensor
    """``(B, N)`` bool: True for the tokens that are not padding, which come first in each sequence."""
    boundaries: Tensor
    """``(2 B + 1,)`` int32, for the sequences concatenated to ``B N`` tokens: the start of each sequence, followed by
    the start of its padding, and ``B N`` at the end."""


def sequence_padding(is_padding: Tensor) -> SequencePadding:
    """Describe padding. is_padding: ``(B, N)`` bool, True at the end of each sequence only."""
    length = is_padding.shape[1]
    starts = torch.arange(len(is_padding), device=is_padding.device) * length
    real = ~is_padding
    # (B,), (B,) -> (B, 2) -> (2 B,) -> (2 B + 1,)
    boundaries = torch.stack([starts + real.sum(dim=1), starts + length], dim=1).flatten()
    return SequencePadding(real, F.pad(boundaries, (1, 0)).int())


def groups_by_count(hidden: Tensor) -> list[Tensor]:
    """Group images by their number of hidden tokens; returns the indices of the images of each group.

    hidden: ``(B, ...)`` bool. Returns int64 vectors that together hold each of ``0 .. B-1`` once. Groups are in
    ascending order of hidden tokens, images within a group in batch order.
    """
    counts = hidden.flatten(1).sum(dim=1)
    return [(counts == count).nonzero().squeeze(1) for count in sorted(set(counts.tolist()))]


def run_in_groups(function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, hidden: Tensor) -> Tensor:
    """Apply ``function`` to each group of :func:`groups_by_count` and return the results in batch order.

    inputs: ``(B, ...)``, ``B >= 1``; hidden: ``(B, ...)`` bool. ``function`` takes the inputs and masks of one group,
    ``(G, ...)`` each, and returns ``(G, ...)``. Differentiable.
    """
    groups = groups_by_count(hidden)
    if len(groups) == 1:
        return function(inputs, hidden)
    results = torch.cat([function(inputs[index], hidden[index]) for index in groups])
    # (B, ...): group order -> batch order
    return results[torch.cat(groups).argsort()]


def token_order(hidden: Tensor) -> Tensor:
    """Positions of the visible tokens in ascending order, then those of the hidden tokens in ascending order.

    hidden: ``(B, L)`` bool. Returns ``(B, L)`` int64.
    """
    # False sorts before True, and a stable sort keeps the order of positions.
    return hidden.byte().argsort(dim=1, stable=True)


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """Select tokens: ``(B, L, D)`` at ``(B, n)`` positions -> ``(B, n, D)``."""
    return tokens.gather(1, _expanded(positions, tokens))


def scatter_tokens(tokens: Tensor, positions: Tensor, filling: Tensor, length: int) -> Tensor:
    """Put tokens at their positions: ``(B, n, D)`` at ``(B, n)`` positions -> ``(B, length, D)``.

    filling: the values at all other positions; broadcasts to ``(B, length, D)``.
    """
    places = filling.to(tokens.dtype).expand(len(tokens), length, tokens.shape[2])
    return places.scatter(1, _expanded(positions, tokens), tokens)


def _expanded(positions: Tensor, tokens: Tensor) -> Tensor:
    # (B, n) -> (B, n, D)
    return positions.unsqueeze(2).expand(-1, -1, tokens.shape[2])
