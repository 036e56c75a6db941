"""All queries to the classifier go through here. They are counted for each image and against a budget.

A stage of the defense is a generator. It yields what it needs, a :class:`Restore` or an :class:`Ask`, and receives the
answer. So a stage reads like the paper, and its caller decides which requests are batched. :func:`run` runs one stage.
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
    """A request to the restorer: ``R`` images as prepared for it, and masks ``(R, g, g)`` or ``(R, M, g, g)`` bool."""

    prepared: Any
    hidden: Tensor


@dataclass(frozen=True)
class Ask:
    """A request to the classifier: the labels of ``(N, C, H, W)`` pictures.

    rows: ``(N,)`` int64, the image that each picture belongs to.
    """

    pictures: Tensor
    rows: Tensor


Request = Restore | Ask
Rounds = Generator[Request, Tensor, T]
"""A running stage: it yields requests, receives their answers, and returns a ``T``."""


class Oracle:
    """Queries the classifier for ``B`` images and counts the queries of each."""

    def __init__(self, count: int, most: int) -> None:
        """count: number of images. most: upper limit of the queries for an image, the sum of those of the stages."""
        self.queries = torch.zeros(count, dtype=torch.int64)
        """``(B,)`` int64: number of queries for each image so far."""
        self._most = most

    def ask(self, rows: Tensor, pictures: Tensor) -> Rounds[Tensor]:
        """The labels of ``(R, C, H, W)`` pictures, ``(R,)`` int64, or of ``(R, K, C, H, W)``, ``(R, K)``.

        rows: ``(R,)`` int64, the image that each belongs to; an image may occur more than once. Nothing is asked if
        there are no pictures.
        """
        each = 1 if pictures.ndim == 4 else pictures.shape[1]
        self.queries.index_add_(0, rows, torch.full_like(rows, each))
        assert not len(rows) or int(self.queries.max()) <= self._most, "a stage sent more queries than its max_queries"
        if not each or not len(rows):
            return torch.zeros(pictures.shape[:-3], dtype=torch.int64)
        if pictures.ndim == 4:
            return (yield Ask(pictures, rows))
        labels = yield Ask(pictures.flatten(0, 1), rows.repeat_interleave(each))
        return labels.unflatten(0, pictures.shape[:2])  # type: ignore[no-any-return]


class Budget:
    """A limit for the queries of a whole run. Not safe for use by several threads.

    A query that is sent again, because no answer to it arrived, counts again.
    """

    def __init__(self, limit: int | None = None) -> None:
        """limit: ``None`` for no limit. Raises ConfigError for a limit below 0."""
        if limit is not None and limit < 0:
            raise ConfigError(f"the budget must be 0 or more queries, or None for no limit, got {limit}")
        self.limit = limit
        self.spent = 0

    @property
    def left(self) -> int | None:
        """Queries that are left; ``None`` without a limit."""
        return None if self.limit is None else self.limit - self.spent

    def allows(self, queries: int) -> bool:
        """Whether this number of further queries is within the limit."""
        return self.limit is None or self.spent + queries <= self.limit

    def spend(self, queries: int) -> None:
        """Count queries that are about to be sent. Raises QueryBudgetError, counting none, if over the limit."""
        if not self.allows(queries):
            raise QueryBudgetError(
                f"{queries} more queries would exceed the budget of {self.limit}: {self.spent} are spent; raise the "
                "budget or send fewer images"
            )
        self.spent += queries


def run(rounds: Rounds[T], restorer: Restorer, classifier: Classifier) -> T:
    """Run one stage and return its result. Raises what the restorer and the classifier raise."""
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
