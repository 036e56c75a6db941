"""What tenants have used: pictures for their rates, and queries of the day for their budgets."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from maskrestore.gateway.decisions import DecisionStore, today
from maskrestore.gateway.errors import RefusedError

__all__ = ["Budgets", "BudgetsInDatabase", "BudgetsInMemory", "Ledger", "Reservation", "ledger_of"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Queries that count until it is known how many were asked."""

    tenant: str
    queries: int
    day: str
    """Whose budget it is."""


class Budgets(Protocol):
    """Queries of tenants, spent or reserved by pictures that are not finished. Safe for several threads."""

    def reserve(self, tenant: str, queries: int, most: int | None, worker: object) -> Reservation:
        """Reserve queries; most: of the day. Raises RefusedError, reserving none, if that would exceed it."""

    def settle(self, reserved: Reservation, spent: int, worker: object) -> None:
        """Replace a reservation by what was spent."""

    def abandon(self, worker: object) -> None:
        """A worker has ended: what it had reserved counts as spent, since its questions may have been asked."""


class BudgetsInMemory:
    """Budgets that begin with what was spent today."""

    def __init__(self, spent: Mapping[str, int]) -> None:
        """spent: today, before."""
        self._lock = threading.Lock()
        self._day, self._spent = today(), Counter(spent)
        self._reserved: dict[object, Counter[str]] = defaultdict(Counter)

    def reserve(self, tenant: str, queries: int, most: int | None, worker: object) -> Reservation:
        """Reserve queries. Raises RefusedError."""
        with self._lock:
            if self._day != today():
                self._day, self._spent = today(), Counter()
            used = self._spent[tenant] + sum(one[tenant] for one in self._reserved.values())
            if most is not None and used + queries > most:
                raise _too_many(most, used, queries)
            self._reserved[worker][tenant] += queries
            return Reservation(tenant=tenant, queries=queries, day=self._day)

    def settle(self, reserved: Reservation, spent: int, worker: object) -> None:
        """Replace a reservation by what was spent."""
        with self._lock:
            self._reserved[worker][reserved.tenant] -= reserved.queries
            self._spent[reserved.tenant] += spent

    def abandon(self, worker: object) -> None:
        """Count what a worker had reserved as spent. If it has not ended after all, what it settles makes that good."""
        with self._lock:
            self._spent.update(self._reserved.pop(worker, Counter()))


class BudgetsInDatabase:
    """Budgets in the database of decisions, which several gateways count in. What is reserved counts there at once."""

    def __init__(self, store: DecisionStore) -> None:
        self._store = store

    def reserve(self, tenant: str, queries: int, most: int | None, worker: object) -> Reservation:
        """Reserve queries, none for a tenant without a budget. Raises RefusedError, also without the database."""
        day = today()
        if most is None:
            return Reservation(tenant=tenant, queries=0, day=day)
        try:
            if self._store.reserve(tenant, day, queries, most):
                return Reservation(tenant=tenant, queries=queries, day=day)
            used = self._store.spent(day).get(tenant, 0)
        except Exception:
            _LOG.exception("queries cannot be counted")
            raise RefusedError(503, "budgets cannot be checked now", retry_after=10) from None
        raise _too_many(most, used, queries)

    def settle(self, reserved: Reservation, spent: int, worker: object) -> None:
        """Replace a reservation by what was spent. If the database does not answer, the reservation stays."""
        if spent != reserved.queries:
            try:
                self._store.spend(reserved.tenant, reserved.day, spent - reserved.queries)
            except Exception:
                _LOG.exception("queries of %s are not counted as they should be", reserved.tenant)

    def abandon(self, worker: object) -> None:
        """It is counted already."""


class Ledger:
    """The rates and budgets of tenants. Safe for several threads. Several workers have one in common."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._rates, self._lock = SlidingWindowCounterRateLimiter(MemoryStorage()), threading.Lock()
        self.waits = isinstance(budgets, BudgetsInDatabase)
        """Whether it waits for another process, so that a loop should not wait for it."""

    def admit(
        self,
        tenant: str,
        pictures: int,
        queries: int,
        *,
        rate: RateLimitItem | None,
        most: int | None,
        worker: object = 0,
    ) -> Reservation:
        """Count pictures against a rate, and reserve queries; most: of the day.

        Raises RefusedError, reserving none, if that would exceed one of them.
        """
        reserved = self._budgets.reserve(tenant, queries, most, worker)
        try:
            self._count(rate, tenant, pictures)  # last: a request that is refused for another reason does not count
        except RefusedError:
            self._budgets.settle(reserved, 0, worker)
            raise
        return reserved

    def _count(self, rate: RateLimitItem | None, tenant: str, pictures: int) -> None:
        with self._lock:
            if rate is not None and not self._rates.hit(rate, tenant, cost=pictures):
                reset = self._rates.get_window_stats(rate, tenant).reset_time
                raise RefusedError(429, f"the rate is {rate}", retry_after=max(1.0, reset - time.time()))

    def settle(self, reserved: Reservation, spent: int, *, worker: object = 0) -> None:
        """Replace a reservation by what was spent."""
        self._budgets.settle(reserved, spent, worker)

    def abandon(self, worker: object) -> None:
        """A worker has ended: what it had reserved counts as spent."""
        self._budgets.abandon(worker)


def ledger_of(store: DecisionStore) -> Ledger:
    """A ledger whose budgets go on where those of the last start ended."""
    return Ledger(BudgetsInDatabase(store) if store.shared else BudgetsInMemory(store.spent(today())))


def _too_many(most: int, used: int, queries: int) -> RefusedError:
    return RefusedError(
        429, f"{max(0, most - used)} of {most} queries are left today, and this may take {queries}",
        retry_after=_until_midnight(),
    )  # fmt: skip


def _until_midnight() -> float:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - now).total_seconds()
