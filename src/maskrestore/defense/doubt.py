"""What to answer when the answer is in doubt: the purified label, the original one, none, or what the caller says.

An answer is in doubt if it does not fit the suspicion: the image looks as if it carried a trigger, and its label
stayed; or it does not, and its label changed. Departure: not in the paper.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.runtime.settings import check
from maskrestore.types import Purification

__all__ = ["ABSTAINED", "DOUBT_LIMIT", "DoubtPolicy", "OnDoubt", "answers", "check_on_doubt"]

ABSTAINED = -1
"""The label of an image that is not answered."""
DOUBT_LIMIT = 0.5
"""An answer is in doubt above this: it is then more likely wrong than right, as far as the suspicion tells."""

DoubtPolicy = Literal["answer", "original", "abstain"]
OnDoubt = DoubtPolicy | Callable[[Tensor, Purification], int]
"""``answer``: the purified label, whatever the doubt. ``original``: the classifier's label of the image as it came.
``abstain``: :data:`ABSTAINED`. A function gets the image ``(C, H, W)`` and its result, a batch of one, and returns a
label."""


def check_on_doubt(on_doubt: OnDoubt, limit: float, config: BDMAEConfig) -> None:
    """Raise UnknownNameError for an unknown policy, ConfigError for a limit outside [0, 1] or a label nobody knows."""
    if not callable(on_doubt) and on_doubt not in get_args(DoubtPolicy):
        raise UnknownNameError("policy for answers in doubt", str(on_doubt), get_args(DoubtPolicy))
    check(0 <= limit <= 1, "doubt_limit", "in [0, 1]", limit)
    if on_doubt == "original" and config.restoration.single_query:
        raise ConfigError(
            "the only query is spent on the restored image, so its original label is not known; allow two queries or "
            "more, or choose another policy for answers in doubt than 'original'"
        )


def answers(images: Tensor, result: Purification, on_doubt: OnDoubt = "answer", limit: float = DOUBT_LIMIT) -> Tensor:
    """The label that each image is answered with: ``(B,)`` int64.

    images: ``(B, C, H, W)`` as they came. result: of the same images. limit: answers are in doubt above it. Raises
    what a function ``on_doubt`` raises, and ConfigError if it does not return a whole number.
    """
    doubtful = result.doubtful(limit)
    if callable(on_doubt):
        labels = result.labels.clone()
        for row in doubtful.nonzero().flatten().tolist():
            labels[row] = _label(on_doubt(images[row], result.select(slice(row, row + 1))))
        return labels
    other = {
        "answer": result.labels,
        "original": result.original_labels,
        "abstain": torch.full_like(result.labels, ABSTAINED),
    }
    return torch.where(doubtful, other[on_doubt], result.labels)


def _label(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(f"expected a whole number from on_doubt, a label, got {type(value).__name__}")
