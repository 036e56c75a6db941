"""Suspicion: how likely an image carries a trigger, from what the stages found out anyway. It costs no query.

A logistic regression on five numbers for each image. Its weights were fitted to images of the training splits that the
classifiers had not learned: 1,174 with eight kinds of triggers, and 3,160 without, each kind with the same weight
(``docs/lab-notes/whole-image.md`` says which). They were fitted before the default had ``all_to_all`` and
``moved``.

Departure: not in the BDMAE paper, which always answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["WEIGHTS", "suspicion"]

_OFFSET = -1.66
WEIGHTS = {"changed": 1.31, "contrast": -2.12, "brings": 1.17, "pattern": 2.91, "accepted": 3.52}
"""Of the evidence, each from 0 to 1:

- ``changed``: share of the random masks that changed the label.
- ``contrast``: highest contrast of a token. A label that depends on one place, and whose restoration failed the tests,
  depends on an object there.
- ``brings``: share of clouds that got the label of the image with a region of it that changed the label.
- ``pattern``: share of clouds that got it with what a filter removed.
- ``accepted``: whether a restoration, a filtered image or a moved copy passed its tests and changed the label.
"""


def suspicion(evidence: Mapping[str, Tensor]) -> Tensor:
    """The probability of a trigger, if half of all images carried one: ``(B,)`` float32 in [0, 1].

    evidence: ``(B,)`` each, by the names of :data:`WEIGHTS`; those that a profile does not ask for are 0.
    """
    total = torch.full_like(evidence["changed"], _OFFSET, dtype=torch.float64)
    for name, weight in WEIGHTS.items():
        total = total + weight * evidence[name].double()
    # One by one: the last bit of a vectorised exponential depends on the place in the batch.
    return torch.tensor([1 / (1 + math.exp(-one)) for one in total.tolist()])
