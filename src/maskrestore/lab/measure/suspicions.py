"""How good a defense's suspicion is: as a detector of triggers, and as a reason not to answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.doubt import DOUBT_LIMIT
from maskrestore.statistics import Auroc, Rate, auroc

__all__ = ["COVERAGES", "Suspected", "SuspicionEntry", "measure_suspicion", "risks"]

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Shares of the images that are answered, those with the least doubt, for the risk-coverage curve."""


@dataclass(frozen=True, kw_only=True)
class Suspected:
    """The suspicion and the doubt of ``N`` images, and whether their answers are right."""

    suspicion: Tensor
    """``(N,)`` in [0, 1]."""
    doubt: Tensor
    """``(N,)`` in [0, 1]."""
    right: Tensor
    """``(N,)`` bool."""


@dataclass(frozen=True, kw_only=True)
class SuspicionEntry:
    """How good the suspicion of a defense is. What concerns triggered images is ``None`` without an attack."""

    auroc: Auroc | None
    """Of the suspicion of triggered images against clean ones."""
    risks: dict[str, float]
    """Share of wrong answers among the share of images, the key, that are answered: the risk-coverage curve, over clean
    and triggered images together."""
    doubtful_clean: Rate
    """Clean images whose answer is in doubt at the limit of 0.5."""
    doubtful_triggered: Rate | None
    """Triggered images whose answer is in doubt."""
    right_if_sure: Rate | None
    """Right answers among those that are not in doubt, clean and triggered; ``None`` if all are in doubt."""


def measure_suspicion(clean: Suspected, triggered: Suspected | None) -> SuspicionEntry:
    """Measure a suspicion on clean images and, with an attack, on triggered ones."""
    parts = [clean] if triggered is None else [clean, triggered]
    doubt, right = (torch.cat([getattr(part, name) for part in parts]) for name in ("doubt", "right"))
    sure = right[doubt <= DOUBT_LIMIT]
    return SuspicionEntry(
        auroc=None if triggered is None else auroc(clean.suspicion, triggered.suspicion),
        risks={str(share): risk for share, risk in zip(COVERAGES, risks(doubt, right, COVERAGES), strict=True)},
        doubtful_clean=_doubtful(clean),
        doubtful_triggered=None if triggered is None else _doubtful(triggered),
        right_if_sure=Rate(int(sure.sum()), len(sure)) if len(sure) else None,
    )


def risks(doubt: Tensor, right: Tensor, coverages: tuple[float, ...]) -> list[float]:
    """Share of wrong answers among the answers with the least doubt, for each share of the images that is answered.

    doubt: ``(N,)``; right: ``(N,)`` bool. Of images with equal doubt, any may be answered: the mean over all choices.

    Source: El-Yaniv and Wiener, On the Foundations of Noise-free Selective Classification, JMLR 11 (2010).
    """
    _, group, size = doubt.unique(return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(size), dtype=torch.float64).index_add_(0, group, (~right).double()) / size
    total = wrong[group.sort().values].cumsum(0)  # wrong answers among the first n
    answered = [max(1, round(share * len(doubt))) for share in coverages]
    return [float(total[count - 1]) / count for count in answered]


def _doubtful(part: Suspected) -> Rate:
    return Rate(int((part.doubt > DOUBT_LIMIT).sum()), len(part.doubt))
