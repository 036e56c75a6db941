"""Rates and areas under ROC curves with their 95 % confidence intervals, and means over repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from maskrestore.errors import ConfigError

__all__ = ["Auroc", "Estimate", "Measured", "Rate", "auroc", "estimate", "mean"]

_Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

# The 97.5 % quantile of Student's t distribution for 1 to 30 degrees of freedom; for more, that of the normal
# distribution is close enough.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_Z = 1.960


@dataclass(frozen=True)
class Rate:
    """A share of successes, with its binomial 95 % confidence interval (Wilson's score interval).

    Unlike the normal approximation, the interval stays inside [0, 1] and has a positive width without any success.
    Raises ConfigError unless ``0 <= successes <= trials`` and ``trials >= 1``.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
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
        """``successes / trials``, in [0, 1]."""
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
class Auroc:
    """The probability that a triggered image scores higher than a clean one, with its 95 % interval; ties count 1/2."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean of a rate over repeats with its 95 % interval, in [0, 1]. See :func:`estimate`."""

    mean: float
    low: float
    high: float
    repeats: int


class Measured(Protocol):
    """A quantity with its 95 % interval, such as a ``Rate`` or an ``Auroc``."""

    @property
    def value(self) -> float:
        """The quantity, in [0, 1]."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


def auroc(clean: Tensor, triggered: Tensor) -> Auroc:
    """Area under the ROC curve of the scores of clean images ``(N,)`` and triggered images ``(M,)``.

    A higher score means a more suspicious image. The interval is clipped to [0, 1]. Raises ConfigError if either tensor
    has another shape, is empty, or holds NaN.

    Source of the interval: Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 143 (1982).
    """
    for scores in (clean, triggered):
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise ConfigError(f"expected scores (N,) of at least one image, none NaN, got shape {tuple(scores.shape)}")
    higher = (triggered[:, None] > clean).double() + 0.5 * (triggered[:, None] == clean).double()  # (M, N)
    area = float(higher.mean())
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (len(triggered) - 1) * (one - area**2) + (len(clean) - 1) * (two - area**2)
    half = _Z95 * math.sqrt(max(spread, 0.0) / (len(clean) * len(triggered)))
    return Auroc(value=area, low=max(0.0, area - half), high=min(1.0, area + half))


def estimate(by_repeat: Sequence[Sequence[Measured]]) -> Estimate:
    """Average rates over cases, then over repeats.

    by_repeat: for each repeat, the rate of each case. With two or more repeats the interval is Student's t interval
    over the repeats, clipped to [0, 1]. With one repeat its ends are the means of the lower and of the upper ends of
    the cases' intervals: the cases share their test images, so more cases do not make the interval narrower.

    Raises ZeroDivisionError if there are no repeats, or a repeat has no cases.
    """
    means = [mean([rate.value for rate in rates]) for rates in by_repeat]
    centre, count = mean(means), len(means)
    if count == 1:
        low, high = (mean([getattr(rate, end) for rate in by_repeat[0]]) for end in ("low", "high"))
    else:
        deviation = math.sqrt(sum((value - centre) ** 2 for value in means) / (count - 1))
        half = (_T[count - 2] if count - 2 < len(_T) else _Z) * deviation / math.sqrt(count)
        low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(mean=centre, low=low, high=high, repeats=count)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ZeroDivisionError if there are no values."""
    return sum(values) / len(values)
