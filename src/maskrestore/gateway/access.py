"""Who may do what, and how much: keys, rates and budgets of queries."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from maskrestore.errors import ConfigError
from maskrestore.gateway.config import GatewayConfig, TenantConfig
from maskrestore.gateway.decisions import today
from maskrestore.gateway.errors import RefusedError
from maskrestore.runtime.digests import digest_of_key

__all__ = ["EVERYONE", "OPERATOR", "Access", "Ledger", "new_key"]

EVERYONE, OPERATOR = "everyone", "operator"
"""Names of those who are no tenants: clients where there are no keys, and the operator."""


def new_key() -> str:
    """A new random key for a tenant or the operator."""
    return f"mr_{secrets.token_urlsafe(32)}"


class Ledger:
    """What tenants have used: pictures for their rates, and queries of today, spent or reserved by pictures that are
    not finished. Safe for several threads. Several workers have one in common.
    """

    def __init__(self, spent: Mapping[str, int]) -> None:
        """spent: today, before."""
        self._lock = threading.Lock()
        self._day, self._spent = today(), Counter(spent)
        self._reserved: dict[int, Counter[str]] = defaultdict(Counter)
        self._rates = SlidingWindowCounterRateLimiter(MemoryStorage())

    def admit(
        self,
        tenant: str,
        pictures: int,
        queries: int,
        *,
        rate: RateLimitItem | None,
        most: int | None,
        worker: int = 0,
    ) -> None:
        """Count pictures against a rate, and reserve queries; most: of the day.

        Raises RefusedError, reserving none, if that would exceed one of them.
        """
        with self._lock:
            if self._day != today():
                self._day, self._spent = today(), Counter()
            reserved = sum(one[tenant] for one in self._reserved.values())
            left = None if most is None else most - self._spent[tenant] - reserved
            if left is not None and queries > left:
                raise RefusedError(
                    429, f"{max(0, left)} of {most} queries are left today, and this may take {queries}",
                    retry_after=_until_midnight(),
                )  # fmt: skip
            # Last, since a request that is refused for another reason does not count.
            if rate is not None and not self._rates.hit(rate, tenant, cost=pictures):
                reset = self._rates.get_window_stats(rate, tenant).reset_time
                raise RefusedError(429, f"the rate is {rate}", retry_after=max(1.0, reset - time.time()))
            self._reserved[worker][tenant] += queries

    def settle(self, tenant: str, reserved: int, spent: int, worker: int = 0) -> None:
        """Replace a reservation by what was spent."""
        with self._lock:
            self._reserved[worker][tenant] -= reserved
            self._spent[tenant] += spent

    def abandon(self, worker: int) -> None:
        """A worker has ended: what it had reserved counts as spent, since its questions may have been asked."""
        with self._lock:
            self._spent.update(self._reserved.pop(worker, Counter()))


class Access:
    """The keys of a configuration, and its limits for tenants."""

    def __init__(self, config: GatewayConfig, ledger: Ledger) -> None:
        """ledger: it stays when the configuration changes. Raises ConfigError for a rate that is none."""
        self._tenants = {one.key_hash: (name, one) for name, one in config.tenants.items()}
        self._configs = config.tenants
        self._operator = None if config.operator is None else config.operator.key_hash
        self._ledger = ledger
        self._rates = {name: _rate(name, one) for name, one in config.tenants.items() if one.rate is not None}

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return bool(self._tenants)

    def client(self, headers: Mapping[str, str], model: str) -> str:
        """The name of the tenant that a request comes from. Raises RefusedError without a valid key."""
        if not self._tenants:
            return EVERYONE
        key = _key(headers)
        if key is None:
            raise RefusedError(401, "this needs a key: send it as Authorization: Bearer KEY")
        hashed = digest_of_key(key)
        if hashed == self._operator:
            return OPERATOR
        if hashed not in self._tenants:
            raise RefusedError(401, "the key is not known")
        name, tenant = self._tenants[hashed]
        if tenant.models is not None and model not in tenant.models:
            raise RefusedError(403, f"the key is not for the model {model!r}")
        return name

    def check_operator(self, headers: Mapping[str, str]) -> None:
        """Raises RefusedError unless a request may see decisions."""
        if headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "a page of another site asks for this")
        if self._operator is None:
            return
        key = _key(headers)
        if key is None or digest_of_key(key) != self._operator:
            raise RefusedError(401, "this needs the operator's key")

    def admit(self, tenant: str, pictures: int, queries: int) -> None:
        """Count pictures against the rate of a tenant, and reserve their queries. Raises RefusedError."""
        config = self._configs.get(tenant)
        rate = self._rates.get(tenant)
        if rate is not None and pictures > rate.amount:
            raise RefusedError(413, f"{pictures} pictures in a request, and the rate is {rate}")
        most = None if config is None else config.queries_per_day
        self._ledger.admit(tenant, pictures, queries, rate=rate, most=most)

    def settle(self, tenant: str, reserved: int, spent: int) -> None:
        """Replace a reservation by what was spent."""
        self._ledger.settle(tenant, reserved, spent)


def _rate(name: str, tenant: TenantConfig) -> RateLimitItem:
    try:
        return parse(tenant.rate or "")
    except ValueError as error:
        raise ConfigError(f"tenants.{name}.rate: expected pictures in a time, such as 600/minute: {error}") from error


def _key(headers: Mapping[str, str]) -> str | None:
    if (given := headers.get("x-api-key")) is not None:
        return given
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
    return None


def _until_midnight() -> float:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - now).total_seconds()
