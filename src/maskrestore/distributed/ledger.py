"""What the workers of a job share: the budget of queries, and whether the job is to end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from maskrestore.defense.oracle import Budget

__all__ = ["ClusterBudget", "JobLedger"]


class JobLedger:
    """An actor beside the process that runs the job. A worker that dies has spent all that it had leased."""

    def __init__(self, limit: int | None) -> None:
        """limit: the most queries of all workers together; ``None`` for no limit."""
        self._limit = limit
        self._leased = 0
        self._begun: Counter[str] = Counter()
        self._reason: str | None = None

    def begin(self, part: str) -> tuple[int, str | None]:
        """How often a part was begun, this time included, and why no part is to be begun any more, if so."""
        self._begun[part] += 1
        return self._begun[part], self._reason

    def lease(self, queries: int) -> bool:
        """Take queries out of the budget, if there are so many."""
        if self._limit is not None and self._leased + queries > self._limit:
            return False
        self._leased += queries
        return True

    def give_back(self, queries: int) -> None:
        """Of those leased, how many were not sent."""
        self._leased -= queries

    def left(self) -> int | None:
        """Queries that can still be leased; ``None`` without a limit."""
        return None if self._limit is None else self._limit - self._leased

    def spent(self) -> int:
        """Queries that were sent, or leased by workers that are at work or dead."""
        return self._leased

    def end(self, reason: str) -> None:
        """Let no part be begun any more."""
        self._reason = self._reason or reason


class ClusterBudget(Budget):
    """A worker's view of the budget of all: it leases what it may need, and gives back what it did not."""

    def __init__(self, ledger: Any, limit: int | None) -> None:
        """ledger: the handle of the actor. limit: of all workers together, for messages."""
        super().__init__(limit)
        self._ledger = ledger
        self._leased = 0

    def allows(self, queries: int) -> bool:
        """Whether this number of further queries is within the limit; they are leased then."""
        import ray  # noqa: PLC0415 - an extra

        missing = self.spent + queries - self._leased
        if missing > 0 and not ray.get(self._ledger.lease.remote(missing)):
            return False
        self._leased += max(0, missing)
        return True

    @property
    def left(self) -> int | None:
        """Queries that no worker has leased; ``None`` without a limit."""
        import ray  # noqa: PLC0415 - an extra

        found: int | None = ray.get(self._ledger.left.remote())
        return found

    def settle(self) -> None:
        """Give back what was not spent."""
        import ray  # noqa: PLC0415 - an extra

        ray.get(self._ledger.give_back.remote(self._leased - self.spent))
        self._leased = self.spent = 0
