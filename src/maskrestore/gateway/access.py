"""Who may do what, and how much: keys, and the limits of tenants, which a ``ledger`` keeps."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from limits import RateLimitItem, parse

from maskrestore.errors import ConfigError
from maskrestore.gateway.config import GatewayConfig, TenantConfig
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.ledger import Ledger, Reservation
from maskrestore.runtime.digests import digest_of_key

__all__ = ["EVERYONE", "OPERATOR", "Access", "new_key"]

EVERYONE, OPERATOR = "everyone", "operator"
"""Names of those who are no tenants: clients where there are no keys, and the operator."""

_Result = TypeVar("_Result")


def new_key() -> str:
    """A new random key for a tenant or the operator."""
    return f"mr_{secrets.token_urlsafe(32)}"


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

    async def admit(self, tenant: str, pictures: int, queries: int) -> Reservation:
        """Count pictures against the rate of a tenant, and reserve their queries. Raises RefusedError.

        If it is cancelled meanwhile, the queries may stay counted.
        """
        config = self._configs.get(tenant)
        rate = self._rates.get(tenant)
        if rate is not None and pictures > rate.amount:
            raise RefusedError(413, f"{pictures} pictures in a request, and the rate is {rate}")
        most = None if config is None else config.queries_per_day
        return await self._ask(partial(self._ledger.admit, tenant, pictures, queries, rate=rate, most=most))

    async def settle(self, reserved: Reservation, spent: int) -> None:
        """Replace a reservation by what was spent, also if nobody waits for that any more."""
        await self._ask(partial(self._ledger.settle, reserved, spent))

    async def _ask(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.shield(asyncio.to_thread(call)) if self._ledger.waits else call()


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
