"""Every question to the classifier goes through here, and is counted for its image and against a budget.

A stage of the defense is a generator. It yields what it needs, a :class:`Restore` or an :class:`Ask`, and receives the
answer; so it reads like the paper, and whoever runs it decides what is sent together. :func:`run` runs a single one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from maskrestore.errors import ConfigError, QueryBudgetError
from maskrestore.types import Classifier, Restorer

__all__ = ["Ask", "Budget", "Oracle", "Request", "Restore", "Rounds", "run"]

T = TypeVar("T")


@dataclass(frozen=True)
class Restore:
    """Asks the restorer: what it is given for ``R`` images, and ``(R, g, g)`` or ``(R, M, g, g)`` bool masks."""

    prepared: Any
    hidden: Tensor


@dataclass(frozen=True)
class Ask:
    """Asks the classifier for the labels of ``(N, C, H, W)`` pictures."""

    pictures: Tensor


Request = Restore | Ask
Rounds = Generator[Request, Tensor, T]
"""A stage under way: yields requests, is sent their answers, and returns a ``T``."""


class Oracle:
    """Asks the classifier about pictures of ``B`` images, and counts the queries of each image."""

    def __init__(self, count: int, most: int) -> None:
        """count: images. most: queries that an image may take, as the stages state it."""
        self.queries = torch.zeros(count, dtype=torch.int64)
        """``(B,)``: queries about each image so far."""
        self._most = most

    def ask(self, rows: Tensor, pictures: Tensor) -> Rounds[Tensor]:
        """The labels of ``(R, C, H, W)`` pictures, ``(R,)`` int64, or of ``(R, K, C, H, W)``, ``(R, K)``.

        rows: ``(R,)`` int64, the image that each belongs to; an image may come up twice.
        """
        each = 1 if pictures.ndim == 4 else pictures.shape[1]
        self.queries.index_add_(0, rows, torch.full_like(rows, each))
        assert not len(rows) or int(self.queries.max()) <= self._most, "a stage asked more than it states"
        if pictures.ndim == 4:
            return (yield Ask(pictures))
        if not each or not len(rows):
            return torch.zeros(pictures.shape[:2], dtype=torch.int64)
        labels: Tensor = (yield Ask(pictures.flatten(0, 1))).unflatten(0, pictures.shape[:2])
        return labels


class Budget:
    """The queries that a whole run may send. Meant for one thread."""

    def __init__(self, limit: int | None = None) -> None:
        """limit: ``None`` for no limit. Raises ConfigError for a limit below 0."""
        if limit is not None and limit < 0:
            raise ConfigError(f"the budget must be 0 or more queries, or None for no limit, got {limit}")
        self.limit = limit
        self.spent = 0

    def allows(self, queries: int) -> bool:
        """Whether so many more queries fit."""
        return self.limit is None or self.spent + queries <= self.limit

    def spend(self, queries: int) -> None:
        """Count queries that are about to be sent. Raises QueryBudgetError if they do not fit, and counts none."""
        if not self.allows(queries):
            raise QueryBudgetError(
                f"{queries} more queries would exceed the budget of {self.limit}: {self.spent} are spent; raise the "
                "budget or send fewer images"
            )
        self.spent += queries


def run(rounds: Rounds[T], restorer: Restorer, classifier: Classifier) -> T:
    """Run one stage to its end, and return what it returns. Raises what the restorer and the classifier raise."""
    try:
        request = next(rounds)
        while True:
            if isinstance(request, Restore):
                request = rounds.send(restorer.restore(request.prepared, request.hidden))
            else:
                request = rounds.send(classifier(request.pictures))
    except StopIteration as end:
        result: T = end.value
        return result
