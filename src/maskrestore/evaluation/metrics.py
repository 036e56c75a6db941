"""The three rates that defenses are compared by, as counts with 95 % intervals.

- CA, clean accuracy: clean images that get their true label.
- BA, backdoor accuracy: triggered images that get their true label.
- ASR, attack success rate: triggered images that get the attacker's label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from maskrestore.errors import ConfigError

__all__ = ["Metrics", "Rate", "accuracy", "measure"]

_Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Rate:
    """A share of successes, with its binomial 95 % interval.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). Unlike the usual normal interval it stays inside [0, 1] and has a width without successes.
    """

    successes: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials or self.trials < 1:
            raise ConfigError(
                f"expected 0 <= successes <= trials and trials >= 1, got {self.successes} of {self.trials}"
            )

    @property
    def value(self) -> float:
        """Successes over trials, in [0, 1]."""
        return self.successes / self.trials

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return 0.0 if self.successes == 0 else self._centre - self._half_width

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return 1.0 if self.successes == self.trials else self._centre + self._half_width

    @property
    def _centre(self) -> float:
        return (self.successes + _Z95**2 / 2) / (self.trials + _Z95**2)

    @property
    def _half_width(self) -> float:
        spread = self.value * (1 - self.value) / self.trials + _Z95**2 / (4 * self.trials**2)
        return _Z95 * math.sqrt(spread) / (1 + _Z95**2 / self.trials)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The rates of one classifier, defended or not. Without an attack there is no BA and no ASR."""

    ca: Rate
    ba: Rate | None = None
    asr: Rate | None = None


def accuracy(predicted: Tensor, wanted: Tensor) -> Rate:
    """How often ``predicted`` ``(N,)`` equals ``wanted`` ``(N,)``.

    Raises ConfigError when they are empty or differ in shape.
    """
    if predicted.shape != wanted.shape or predicted.ndim != 1:
        raise ConfigError(
            f"expected two lists of labels of one length, got shapes {tuple(predicted.shape)} and {tuple(wanted.shape)}"
        )
    return Rate(int((predicted == wanted).sum()), len(wanted))


def measure(
    clean: tuple[Tensor, Tensor],
    triggered: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Metrics:
    """The rates of a classifier.

    clean: predicted and true labels of clean images, ``(N,)`` each. triggered: predicted, true and the
    attacker's labels of triggered images, ``(M,)`` each. Raises ConfigError when they are empty or differ
    in shape.
    """
    ca = accuracy(*clean)
    if triggered is None:
        return Metrics(ca=ca)
    predicted, true, poisoned = triggered
    return Metrics(ca=ca, ba=accuracy(predicted, true), asr=accuracy(predicted, poisoned))
