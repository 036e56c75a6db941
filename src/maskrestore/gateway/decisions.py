"""Decisions in SQLite: written before they are acknowledged, and deleted when they are old or too many."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from maskrestore.errors import ConfigError
from maskrestore.gateway.board import Board
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.records import Bucket, Decision
from maskrestore.reporting.pictures import Picture, difference

__all__ = ["DecisionStore", "Filters", "KeptDecision"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    id TEXT PRIMARY KEY, time REAL, model TEXT, tenant TEXT, changed INT, failed INT, shielded INT, suspicion REAL,
    queries INT, seconds REAL, waited REAL, record TEXT, maps BLOB, pictures BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_time ON decisions (time);
CREATE TABLE IF NOT EXISTS spent (tenant TEXT, day TEXT, queries INT, PRIMARY KEY (tenant, day)) WITHOUT ROWID;
"""
_VERSION = 1
_DELETED_AT_ONCE = 500
_BUCKETS = 60
_SHOWN = ["before", "after", "removed"]


@dataclass(frozen=True, kw_only=True)
class KeptDecision:
    """A decision with what belongs to it."""

    decision: Decision
    maps: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """``(g, g)`` each."""
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    """``before`` and ``after``, reduced to 224 pixels a side."""

    @property
    def shown(self) -> Decision:
        """The decision as it is shown at first: with its pictures, if there are any."""
        return self.decision.model_copy(update={"pictures": _SHOWN if self.pictures else []})


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which decisions."""

    changed: bool | None = None
    errors: bool | None = None
    unshielded: bool | None = None
    suspicion: float | None = None
    model: str | None = None
    tenant: str | None = None

    def matches(self, decision: Decision) -> bool:
        """Whether a decision is among them."""
        known = (
            (self.changed, decision.changed),
            (self.errors, decision.error is not None),
            (self.unshielded, not decision.shielded),
            (self.model, decision.model),
            (self.tenant, decision.tenant),
        )
        doubtful = self.suspicion is None or (decision.suspicion or 0.0) >= self.suspicion
        return doubtful and all(wanted is None or wanted == found for wanted, found in known)

    def where(self) -> tuple[str, list[Any]]:
        """As SQL."""
        columns = {
            "changed = ?": self.changed,
            "failed = ?": self.errors,
            "shielded != ?": self.unshielded,
            "COALESCE(suspicion, 0) >= ?": self.suspicion,
            "model = ?": self.model,
            "tenant = ?": self.tenant,
        }
        given = {text: value for text, value in columns.items() if value is not None}
        return " AND ".join(["1", *given]), list(given.values())


class DecisionStore:
    """The decisions of a gateway. Safe for use by several threads."""

    def __init__(self, config: DecisionsConfig, board: Board | None = None) -> None:
        """Open or create the file. board: shows decisions besides. Raises ConfigError if the file cannot be used."""
        self._config = config
        self._lock = threading.Lock()
        self._board = Board(config.recent) if board is None else board
        self._db = _opened(config.path)

    def add(self, kept: Sequence[KeptDecision], spent: Mapping[str, int]) -> None:
        """Keep decisions. When this returns they survive the end of the process, however it ends.

        spent: queries of tenants since the last call. Raises sqlite3.Error, keeping none, if the disk is full, say.
        """
        day = today()
        rows = [self._row(one) for one in kept]
        with self._lock, self._db:
            self._db.executemany(f"INSERT INTO decisions VALUES ({', '.join('?' * 14)})", rows)
            self._db.executemany(
                "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET queries = queries + excluded.queries",
                [(tenant, day, queries) for tenant, queries in spent.items() if queries],
            )
        self._board.add([one.shown for one in kept], {one.decision.id: one.pictures for one in kept if one.pictures})

    def spent_today(self) -> dict[str, int]:
        """Queries of each tenant since midnight (UTC)."""
        with self._lock:
            return dict(self._db.execute("SELECT tenant, queries FROM spent WHERE day = ?", [today()]).fetchall())

    def get(self, one: str) -> KeptDecision | None:
        """A decision with its maps, without its pictures; ``None`` if there is none of that id."""
        with self._lock:
            row = self._db.execute(
                "SELECT record, pictures NOT NULL, maps FROM decisions WHERE id = ?", [one]
            ).fetchone()
        if row is None:
            return None
        (decision,) = self._decisions([row[:2]])
        return KeptDecision(decision=decision, maps=_unpacked(row[2]))

    def picture(self, one: str, name: str) -> Picture | None:
        """``before``, ``after`` or ``removed`` of a decision, if it is kept."""
        found = self._board.pictures(one)
        if not found:
            with self._lock:
                row = self._db.execute("SELECT pictures FROM decisions WHERE id = ?", [one]).fetchone()
            found = _unpacked(row[0]) if row and row[0] else {}
        if name == "removed" and found:
            return difference(found["before"], found["after"])
        return found.get(name)

    def page(self, filters: Filters, *, before: str | None, after: str | None = None, limit: int) -> list[Decision]:
        """The newest decisions before another; or, with ``after``, the oldest behind it."""
        where, values = filters.where()
        if before is not None:
            where, values = f"{where} AND id < ?", [*values, before]
        if after is not None:
            where, values = f"{where} AND id > ?", [*values, after]
        order = "ASC" if after is not None else "DESC"
        query = f"SELECT record, pictures IS NOT NULL FROM decisions WHERE {where} ORDER BY id {order} LIMIT ?"
        with self._lock:
            rows = self._db.execute(query, [*values, limit]).fetchall()
        return self._decisions(rows)

    def statistics(self, minutes: float) -> list[Bucket]:
        """The last minutes in at most 60 pieces."""
        length = max(1.0, minutes * 60 / _BUCKETS)
        begin = (time.time() - minutes * 60) // length * length + length
        with self._lock:
            rows = self._db.execute(
                "SELECT CAST((time - ?) / ? AS INT), COUNT(*), SUM(COALESCE(changed, 0)), SUM(failed), "
                "SUM(1 - shielded), SUM(COALESCE(queries, 0)), AVG(seconds), MAX(seconds), AVG(waited) "
                "FROM decisions WHERE time >= ? GROUP BY 1 ORDER BY 1",
                [begin, length, begin],
            ).fetchall()
        names = ("decisions", "changed", "errors", "unshielded", "queries", "seconds", "slowest", "waited")
        return [Bucket(time=iso(begin + row[0] * length), **dict(zip(names, row[1:], strict=True))) for row in rows]

    def prune(self) -> int:
        """Delete decisions that are too old, and the oldest while the file is too large; returns how many."""
        deleted = 0
        oldest = time.time() - self._config.max_age_days * 86400
        with self._lock, self._db:
            deleted += self._db.execute("DELETE FROM decisions WHERE time < ?", [oldest]).rowcount
            self._db.execute("DELETE FROM spent WHERE day < ?", [today()])
        while self._bytes() > self._config.max_megabytes * 2**20:
            with self._lock, self._db:
                some = "SELECT id FROM decisions ORDER BY id LIMIT ?"
                count = self._db.execute(f"DELETE FROM decisions WHERE id IN ({some})", [_DELETED_AT_ONCE]).rowcount
            if not count:
                break
            deleted += count
        with self._lock:
            # The file shrinks. (`execute` would end this pragma after a single page.)
            self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
        return deleted

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _bytes(self) -> int:
        with self._lock:
            names = ("page_count", "freelist_count", "page_size")
            size, free, page = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((size - free) * page)

    def _row(self, kept: KeptDecision) -> tuple[Any, ...]:
        one = kept.decision
        keep = self._config.pictures == "all" or (self._config.pictures == "changed" and bool(one.changed))
        return (
            one.id, datetime.fromisoformat(one.time).timestamp(), one.model, one.tenant, one.changed,
            one.error is not None, one.shielded, one.suspicion, one.queries, one.seconds, one.waited,
            one.model_dump_json(exclude={"pictures"}), _packed(kept.maps),
            _packed(kept.pictures) if keep and kept.pictures else None,
        )  # fmt: skip

    def _decisions(self, rows: Sequence[tuple[str, bool]]) -> list[Decision]:
        """Records, and whether the file has their pictures -> decisions."""
        found = [(json.loads(record), kept) for record, kept in rows]
        pictured = self._board.pictured([values["id"] for values, _ in found])
        return [
            Decision.model_validate(values | {"pictures": _SHOWN if kept or values["id"] in pictured else []})
            for values, kept in found
        ]


def iso(seconds: float) -> str:
    """A time as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def today() -> str:
    """The day in UTC."""
    return datetime.now(UTC).date().isoformat()


def _opened(path: Path | None) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=10)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("PRAGMA synchronous = NORMAL")  # nothing is lost if the process ends, only if the machine does
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise ConfigError(f"{path}: decisions of another version of maskrestore ({version}, this one: {_VERSION})")
        with db:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
    except sqlite3.Error as error:
        raise ConfigError(f"decisions cannot be kept in {path}: {error}") from error
    return db


def _packed(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict[str, Any](arrays))
    return packed.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)
