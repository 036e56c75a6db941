"""Columns of tables: attacks on data sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from maskrestore.lab.paper.cells import Case
from maskrestore.lab.paper.layouts import Column

__all__ = ["BADNETS", "aggregated", "cases", "single"]

_NAMES = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
BADNETS = tuple(f"badnets:{size}x{size}-{colour}" for size in (1, 2, 3) for colour in ("color", "white"))
"""The six patches of the paper (5.1)."""


def cases(dataset: str, attacks: Iterable[str | None], **settings: Any) -> tuple[Case, ...]:
    """Return a case for each attack on a data set; ``None`` for a clean classifier. settings: of each case."""
    return tuple(Case(dataset=dataset, attack=attack, **settings) for attack in attacks)


def aggregated(attacks: Iterable[str], **settings: Any) -> tuple[Column, ...]:
    """Return a column for each data set, averaged over attacks."""
    chosen = tuple(attacks)
    return tuple(Column(title=title, cases=cases(name, chosen, **settings)) for name, title in _NAMES.items())


def single(title: str, dataset: str, attack: str, **settings: Any) -> Column:
    """Return a column of one attack on one data set."""
    return Column(title=title, cases=cases(dataset, [attack], **settings))
