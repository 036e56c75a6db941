"""Consensus: masks that break a trigger agree on one other label. Not in the paper."""

from __future__ import annotations

from torch import Tensor

__all__ = ["consensus"]


def consensus(votes: Tensor, original: Tensor) -> Tensor:
    """How many of the random masks agree on one label other than the original.

    votes: ``(B, M)`` int64, the label under each mask; original: ``(B,)`` int64. Returns ``(B,)`` in [0, 1]: the
    share of masks with the most frequent other label. Masks that break a trigger agree on the true label; masks that
    change the label of a clean image lead to various labels. Departure: not in the paper.
    """
    same = votes.unsqueeze(2) == votes.unsqueeze(1)  # (B, M, M): masks with equal labels
    return (same.float().mean(dim=2) * (votes != original.unsqueeze(1))).amax(dim=1)
