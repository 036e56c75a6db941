"""The three rates of a classifier or defense, as counts with 95 % intervals.

- CA, clean accuracy: share of clean images with their true label.
- BA, backdoor accuracy: share of triggered images with their true label.
- ASR, attack success rate: share of triggered images with the attacker's label.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.statistics import Rate

__all__ = ["Metrics", "accuracy", "measure"]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The rates of a classifier, with or without a defense. BA and ASR are ``None`` without an attack."""

    ca: Rate
    ba: Rate | None = None
    asr: Rate | None = None


def accuracy(predicted: Tensor, wanted: Tensor) -> Rate:
    """Return the rate at which ``predicted`` ``(N,)`` equals ``wanted`` ``(N,)``.

    Raises ConfigError when they are empty or differ in shape.
    """
    if predicted.shape != wanted.shape or predicted.ndim != 1:
        raise ConfigError(
            f"expected two label tensors of the same shape (N,), got {tuple(predicted.shape)} and {tuple(wanted.shape)}"
        )
    return Rate(int((predicted == wanted).sum()), len(wanted))


def measure(
    clean: tuple[Tensor, Tensor],
    triggered: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Metrics:
    """Return the rates of a classifier.

    clean: predicted and true labels of clean images, ``(N,)`` each. triggered: predicted, true and the attacker's
    labels of triggered images, ``(M,)`` each. Raises ConfigError when they are empty or differ in shape.
    """
    ca = accuracy(*clean)
    if triggered is None:
        return Metrics(ca=ca)
    predicted, true, poisoned = triggered
    return Metrics(ca=ca, ba=accuracy(predicted, true), asr=accuracy(predicted, poisoned))
