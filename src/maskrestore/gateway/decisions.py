"""Decisions in a database: written before they are acknowledged, and deleted when they are old or too many.

``database`` says where: in SQLite, or in PostgreSQL.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from maskrestore.gateway.board import Board
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.database import opened
from maskrestore.gateway.records import Bucket, Decision
from maskrestore.reporting.pictures import Picture, difference

__all__ = ["DecisionStore", "Filters", "KeptDecision"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    id {id} PRIMARY KEY, time DOUBLE PRECISION, model TEXT, tenant TEXT, changed INT, failed INT, shielded INT,
    suspicion DOUBLE PRECISION, queries INT, seconds DOUBLE PRECISION, waited DOUBLE PRECISION, record TEXT,
    maps {bytes}, pictures {bytes}, doubtful INT
) {table};
CREATE INDEX IF NOT EXISTS by_time ON decisions (time);
CREATE TABLE IF NOT EXISTS spent (tenant TEXT, day TEXT, queries BIGINT, PRIMARY KEY (tenant, day)) {table};
"""
_CHANGES = {2: "ALTER TABLE decisions ADD COLUMN doubtful INT"}
"""What makes tables of a version out of those of the version before."""
_COLUMNS = (
    "id", "time", "model", "tenant", "changed", "failed", "shielded", "suspicion", "queries", "seconds", "waited",
    "record", "maps", "pictures", "doubtful",
)  # fmt: skip
_SPEND = """
INSERT INTO spent VALUES (?, ?, ?)
ON CONFLICT (tenant, day) DO UPDATE SET queries = spent.queries + excluded.queries
"""
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
    doubtful: bool | None = None
    errors: bool | None = None
    unshielded: bool | None = None
    suspicion: float | None = None
    model: str | None = None
    tenant: str | None = None

    def matches(self, decision: Decision) -> bool:
        """Whether a decision is among them."""
        known = (
            (self.changed, decision.changed),
            (self.doubtful, decision.doubtful),
            (self.errors, decision.error is not None),
            (self.unshielded, not decision.shielded),
            (self.model, decision.model),
            (self.tenant, decision.tenant),
        )
        suspicious = self.suspicion is None or (decision.suspicion or 0.0) >= self.suspicion
        return suspicious and all(wanted is None or wanted == found for wanted, found in known)

    def where(self) -> tuple[str, list[Any]]:
        """As SQL."""
        columns = {
            "changed = ?": self.changed,
            "doubtful = ?": self.doubtful,
            "failed = ?": self.errors,
            "shielded != ?": self.unshielded,
            "COALESCE(suspicion, 0) >= ?": self.suspicion,
            "model = ?": self.model,
            "tenant = ?": self.tenant,
        }
        given = {text: value for text, value in columns.items() if value is not None}
        values = [int(value) if isinstance(value, bool) else value for value in given.values()]
        return " AND ".join(["TRUE", *given]), values


class DecisionStore:
    """The decisions of a gateway. Safe for use by several threads."""

    def __init__(self, config: DecisionsConfig, board: Board | None = None) -> None:
        """Open or create the tables. board: shows decisions besides. Raises what :func:`opened` raises."""
        self._config = config
        self._board = Board(config.recent) if board is None else board
        self._db = opened(config, _SCHEMA, _CHANGES)

    @property
    def shared(self) -> bool:
        """Whether gateways on several machines may use it; then what is spent is counted by ``reserve``."""
        return self._db.shared

    def add(self, kept: Sequence[KeptDecision], spent: Mapping[str, int]) -> None:
        """Keep decisions. When this returns they survive the end of the process, however it ends.

        spent: queries of tenants since the last call. Raises an error of the database, keeping none, if the disk is
        full, say.
        """
        rows = [self._row(one) for one in kept]
        spending = [] if self.shared else [(tenant, today(), queries) for tenant, queries in spent.items() if queries]
        places = ", ".join("?" * len(_COLUMNS))
        self._db.change((f"INSERT INTO decisions ({', '.join(_COLUMNS)}) VALUES ({places})", rows), (_SPEND, spending))
        self._board.add([one.shown for one in kept], {one.decision.id: one.pictures for one in kept if one.pictures})

    def spent(self, day: str) -> dict[str, int]:
        """Queries of each tenant on a day."""
        return dict(self._db.rows("SELECT tenant, queries FROM spent WHERE day = ?", [day]))

    def reserve(self, tenant: str, day: str, queries: int, most: int) -> bool:
        """Count queries that may be asked; returns whether no more than so many are counted then, else counts none.

        Other gateways may do that at the same time.
        """
        within = f"{_SPEND} WHERE spent.queries + excluded.queries <= ?"
        return queries <= most and self._db.change((within, [(tenant, day, queries, most)])) == 1

    def spend(self, tenant: str, day: str, queries: int) -> None:
        """Count queries; fewer than 0 give back what was reserved."""
        self._db.change((_SPEND, [(tenant, day, queries)]))

    def get(self, one: str) -> KeptDecision | None:
        """A decision with its maps, without its pictures; ``None`` if there is none of that id."""
        rows = self._db.rows("SELECT record, pictures IS NOT NULL, maps FROM decisions WHERE id = ?", [one])
        if not rows:
            return None
        (decision,) = self._decisions([rows[0][:2]])
        return KeptDecision(decision=decision, maps=_unpacked(rows[0][2]))

    def picture(self, one: str, name: str) -> Picture | None:
        """``before``, ``after`` or ``removed`` of a decision, if it is kept."""
        found = self._board.pictures(one)
        if not found:
            rows = self._db.rows("SELECT pictures FROM decisions WHERE id = ? AND pictures IS NOT NULL", [one])
            found = _unpacked(rows[0][0]) if rows else {}
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
        return self._decisions(self._db.rows(query, [*values, limit]))

    def statistics(self, minutes: float) -> list[Bucket]:
        """The last minutes in at most 60 pieces."""
        length = max(1.0, minutes * 60 / _BUCKETS)
        begin = (time.time() - minutes * 60) // length * length + length
        rows = self._db.rows(
            f"SELECT {self._db.whole('(time - ?) / ?')}, COUNT(*), SUM(COALESCE(changed, 0)), "
            "SUM(COALESCE(doubtful, 0)), SUM(failed), SUM(1 - shielded), SUM(COALESCE(queries, 0)), AVG(seconds), "
            "MAX(seconds), AVG(waited) FROM decisions WHERE time >= ? GROUP BY 1 ORDER BY 1",
            [begin, length, begin],
        )
        names = (
            "decisions", "changed", "doubtful", "errors", "unshielded", "queries", "seconds", "slowest", "waited",
        )  # fmt: skip
        return [Bucket(time=iso(begin + row[0] * length), **dict(zip(names, row[1:], strict=True))) for row in rows]

    def prune(self) -> int:
        """Delete decisions that are too old, and the oldest while there is too much; returns how many."""
        oldest = time.time() - self._config.max_age_days * 86400
        deleted = self._db.change(("DELETE FROM decisions WHERE time < ?", [[oldest]]))
        self._db.change(("DELETE FROM spent WHERE day < ?", [[today()]]))
        some = "SELECT id FROM decisions ORDER BY id LIMIT ?"
        while self._db.size() > self._config.max_megabytes * 2**20:
            count = self._db.change((f"DELETE FROM decisions WHERE id IN ({some})", [[_DELETED_AT_ONCE]]))
            if not count:
                break
            deleted += count
        self._db.shrink()
        return deleted

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _row(self, kept: KeptDecision) -> tuple[Any, ...]:
        one = kept.decision
        keep = self._config.pictures == "all" or (self._config.pictures == "changed" and bool(one.changed))
        return (
            one.id, datetime.fromisoformat(one.time).timestamp(), one.model, one.tenant,
            _flag(one.changed), int(one.error is not None), int(one.shielded),
            one.suspicion, one.queries, one.seconds, one.waited,
            one.model_dump_json(exclude={"pictures"}), _packed(kept.maps),
            _packed(kept.pictures) if keep and kept.pictures else None, _flag(one.doubtful),
        )  # fmt: skip

    def _decisions(self, rows: Sequence[tuple[str, bool]]) -> list[Decision]:
        """Records, and whether their pictures are kept with them -> decisions."""
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


def _flag(known: bool | None) -> int | None:
    return None if known is None else int(known)


def _packed(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict[str, Any](arrays))
    return packed.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)
