"""Decisions in PostgreSQL, for gateways on several machines."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.gateway.database import VERSION, Changes, Statement, other_version, steps_from

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Postgres"]

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_PAUSE = 1.0
"""Seconds after an attempt to connect that failed: until then all others fail at once, and hold up nothing."""
_DEFAULTS = {
    "application_name": "maskrestore", "connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5,
    "keepalives_count": 3, "tcp_user_timeout": 10_000,
}  # fmt: skip
"""So a connection to a machine that is gone ends. The address may say otherwise."""
_CREATING = 0x6D61736B
"""Of a lock: gateways that start together create the tables one after the other."""
_USED = "octet_length(record) + octet_length(maps) + COALESCE(octet_length(pictures), 0)"


class Postgres:
    """A connection, which is made again after it broke. Safe for use by several threads."""

    shared = True

    def __init__(self, url: str, schema: str, changes: Changes) -> None:
        """url: ``postgresql://user@host:port/name``. Raises ConfigError if it cannot be used, MissingDependencyError.

        No message holds the password.
        """
        try:
            import psycopg  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise MissingDependencyError("psycopg", "postgres") from error
        self._psycopg = psycopg
        self._lock = threading.Lock()
        self._settings, self._pause_until = _settings(url), 0.0
        try:
            self._db = self._connected()
            self._create(schema.format(id='TEXT COLLATE "C"', bytes="BYTEA", table=""), changes)
        except psycopg.Error as error:
            raise ConfigError(
                f"decisions cannot be kept in PostgreSQL: {' '.join(str(error).split())}; start the server, or correct "
                "decisions.url"
            ) from error

    def whole(self, number: str) -> str:
        """SQL for a number without its fraction."""
        return f"CAST(TRUNC({number}) AS INT)"

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a query finds. Raises psycopg.Error."""
        return self._with(lambda db: db.execute(_sql(query), values).fetchall())

    def change(self, *statements: Statement) -> int:
        """Do all statements or none, never twice. Raises psycopg.Error, for example if the server is not there."""
        done = False

        def do(db: Connection[Any]) -> int:
            nonlocal done
            count = 0
            with db.transaction(), db.cursor() as cursor:
                for sql, rows in statements:
                    cursor.executemany(_sql(sql), rows)
                    count += max(0, cursor.rowcount)
                done = True
            return count

        return self._with(do, again=lambda: not done)  # whether a commit without an answer was made, nobody knows

    def size(self) -> int:
        """Bytes of what is kept. (Those of the files say less: PostgreSQL uses them again, and keeps them.)"""
        return int(self.rows(f"SELECT COALESCE(SUM({_USED}), 0) FROM decisions")[0][0])

    def shrink(self) -> None:
        """PostgreSQL does that by itself."""

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def _connected(self) -> Connection[Any]:
        db = self._psycopg.connect(**self._settings, autocommit=True)
        db.execute("SET lock_timeout = '10s'")
        return db

    def _with(self, do: Callable[[Connection[Any]], _Result], again: Callable[[], bool] = lambda: True) -> _Result:
        """Do something with the connection. If that is broken, it is made again, and it is done again if it may be."""
        with self._lock:
            if not self._db.closed:
                try:
                    return do(self._db)
                except self._psycopg.Error as error:
                    if not self._db.closed or not again():
                        raise
                    _LOG.warning("the connection to PostgreSQL broke, and is made again: %s", error)
            if time.monotonic() < self._pause_until:
                raise self._psycopg.OperationalError("PostgreSQL could not be reached a moment ago")
            try:
                self._db = self._connected()
            except self._psycopg.Error:
                self._pause_until = time.monotonic() + _PAUSE
                raise
            return do(self._db)

    def _create(self, schema: str, changes: Changes) -> None:
        """Create the tables if there are none, or change those of an earlier version.

        Whoever may only use them need not be allowed to create any. Raises ConfigError if they need a change and belong
        to somebody else.
        """
        with self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATING])
            (there, version) = self._db.execute(
                "SELECT to_regclass('decisions') IS NOT NULL, obj_description(to_regclass('decisions'), 'pg_class')"
            ).fetchone() or (False, None)
            if not there:
                self._db.execute(schema.encode())
                self._db.execute(f"COMMENT ON TABLE decisions IS 'maskrestore {VERSION}'".encode())
                return
            number = int(found[1]) if (found := re.fullmatch(r"maskrestore (\d+)", version or "")) else 0
            if not 1 <= number <= VERSION:
                raise other_version("decisions.url", version)
            if number < VERSION:
                self._change([*steps_from(number, changes), f"COMMENT ON TABLE decisions IS 'maskrestore {VERSION}'"])

    def _change(self, statements: Sequence[str]) -> None:
        """Change the tables. Raises ConfigError if that is for somebody else."""
        try:
            for statement in statements:
                self._db.execute(statement.encode())
        except self._psycopg.errors.InsufficientPrivilege as error:
            raise ConfigError(
                "decisions.url: the tables are of an earlier version and belong to somebody else, who must change them "
                f"once: {'; '.join(statements)}"
            ) from error


def _sql(text: str) -> bytes:
    """As psycopg takes it."""
    return text.replace("?", "%s").encode()


def _settings(url: str) -> dict[str, Any]:
    """The parts of an address. Raises ConfigError, which quotes none of it: parts of a password may be anywhere."""
    from psycopg import Error  # noqa: PLC0415 - an optional extra
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    wrong = ConfigError(
        "decisions.url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for special characters in the "
        "password (its text is not shown here, as it may hold the password)"
    )
    if not url.startswith(("postgresql://", "postgres://")):
        raise wrong
    try:
        found = conninfo_to_dict(url)
    except Error:
        raise wrong from None
    if any("@" in str(found.get(name, "")) for name in ("host", "hostaddr", "port", "dbname")):
        raise wrong
    return _DEFAULTS | found
