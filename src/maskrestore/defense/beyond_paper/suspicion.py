"""Suspicion: how likely an image carries a trigger, from what the stages found out anyway. It costs no query.

A logistic regression on a few numbers for each image, fitted to training images of which half carried a trigger.

Departure: not in the BDMAE paper, which always answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["WEIGHTS", "suspicion"]

_OFFSET = -4.0
WEIGHTS = {"changed": 2.0, "agreed": 1.0, "contrast": 1.0, "brings": 2.0, "groups": 1.0, "accepted": 4.0}
"""Of the evidence, by its name in :attr:`State.evidence`, and of ``accepted``: whether the label was changed."""


def suspicion(evidence: Mapping[str, Tensor], accepted: Tensor) -> Tensor:
    """The probability of a trigger, if half of all images carried one: ``(B,)`` float32 in [0, 1].

    evidence: ``(B,)`` each. accepted: ``(B,)`` bool, whether a restoration was accepted that changes the label.
    """
    known = {**evidence, "accepted": accepted}
    total = sum((weight * known[name].double() for name, weight in WEIGHTS.items()), torch.tensor(_OFFSET).double())
    # One by one: the last bit of a vectorised exponential depends on the place in the batch.
    return torch.tensor([1 / (1 + math.exp(-one)) for one in total.expand(len(accepted)).tolist()])
