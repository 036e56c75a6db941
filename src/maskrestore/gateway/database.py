"""The database of decisions: what both kinds do, and SQLite. ``postgres`` is the other one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from maskrestore.errors import ConfigError
from maskrestore.gateway.config import DecisionsConfig

__all__ = ["VERSION", "Changes", "Database", "Sqlite", "Statement", "opened", "other_version", "steps_from"]

VERSION = 2
"""Of the tables."""
Statement = tuple[str, Sequence[Sequence[Any]]]
"""SQL with ``?`` for each value, and the rows of values that it is done with."""
Changes = Mapping[int, str]
"""By version, the SQL that makes its tables out of those of the version before."""


class Database(Protocol):
    """Runs SQL that both kinds understand. Safe for use by several threads."""

    shared: bool
    """Whether gateways on several machines may use it at the same time."""

    def whole(self, number: str) -> str:
        """SQL for a number without its fraction."""

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a query finds."""

    def change(self, *statements: Statement) -> int:
        """Do all statements or none. When this returns they are kept. Returns how many rows they changed."""

    def size(self) -> int:
        """Bytes that are in use."""

    def shrink(self) -> None:
        """Give back what is not in use."""

    def close(self) -> None:
        """Close it."""


def opened(config: DecisionsConfig, schema: str, changes: Changes) -> Database:
    """The database of a configuration. schema: SQL that creates the tables; ``{id}`` and ``{bytes}`` are types.

    changes: what is done to tables of earlier versions, whose decisions stay. Raises ConfigError if it cannot be used,
    and MissingDependencyError without the extra ``postgres``.
    """
    if config.url is None:
        return Sqlite(config.path, schema, changes)
    from maskrestore.gateway.postgres import Postgres  # noqa: PLC0415 - an optional extra

    return Postgres(config.url.get_secret_value(), schema, changes)


def steps_from(version: int, changes: Changes) -> list[str]:
    """What makes tables of this version out of those of an earlier one."""
    return [changes[number] for number in range(version + 1, VERSION + 1)]


def other_version(where: str, version: object) -> ConfigError:
    """The error for tables of another version."""
    return ConfigError(f"{where}: decisions of another version of maskrestore ({version}, this one: {VERSION})")


class Sqlite:
    """A file, or the memory of this process."""

    shared = False

    def __init__(self, path: Path | None, schema: str, changes: Changes) -> None:
        """path: ``None``: in memory. Raises ConfigError if the file cannot be used."""
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL").fetchall()
            self._db.execute("PRAGMA synchronous = NORMAL")  # nothing is lost if the process ends, only the machine
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")  # several workers may open it at a time
                self._create(str(path), schema.format(id="TEXT", bytes="BLOB", table="WITHOUT ROWID"), changes)
        except sqlite3.Error as error:
            raise ConfigError(f"decisions cannot be kept in {path}: {error}") from error

    def whole(self, number: str) -> str:
        """SQL for a number without its fraction."""
        return f"CAST({number} AS INT)"

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a query finds."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def change(self, *statements: Statement) -> int:
        """Do all statements or none. Raises sqlite3.Error, having done none, if the disk is full, say."""
        with self._lock, self._db:
            return sum(max(0, self._db.executemany(sql, rows).rowcount) for sql, rows in statements)

    def size(self) -> int:
        """Bytes of the file that are in use."""
        with self._lock:
            names = ("page_count", "freelist_count", "page_size")
            size, free, page = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((size - free) * page)

    def shrink(self) -> None:
        """Make the file as small as what is in use."""
        with self._lock:
            # `execute` would end this pragma after a single page.
            self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    def _create(self, where: str, schema: str, changes: Changes) -> None:
        """Create the tables, or change those of an earlier version."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise other_version(where, version)
        for statement in steps_from(version, changes) if version else schema.split(";"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
