"""Answers of a classifier on disk, by picture, so that no answered picture is asked about again after a crash."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from maskrestore.runtime.digests import raw_digest

__all__ = ["AnswerCache"]

_MOST = 2**20
"""Answers that are kept; the oldest are dropped. A row takes about 60 bytes."""

_TABLES = """
PRAGMA journal_mode = TRUNCATE;
PRAGMA synchronous = OFF;  -- safe if the process dies; after a power cut the file may be damaged, and is begun anew
CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, picture BLOB UNIQUE, answer BLOB);
"""
_KEPT = "SELECT picture, answer FROM answers WHERE number <= {} AND picture IN ({})"
_AT_A_TIME = 500  # names in one query


class AnswerCache:
    """Labels by the digest of a picture and of the classifier's identity, in a SQLite file.

    It finds answers of earlier runs only: what one run asks twice is sent twice, as without a cache.
    A damaged file is replaced by an empty one, and a damaged entry counts as none. If the file cannot be written, there
    is no cache: nothing here raises an error. Not safe for use by several threads.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """path: of the file, made when it is first used. identity: of the classifier, as for ``FolderJob``."""
        self._path, self._identity = path, identity.encode()
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._last = 0  # number of the last answer of an earlier run
        self.found = 0
        """Number of answers found so far."""

    def __len__(self) -> int:
        """Number of answers that a later run will find."""
        try:
            (count,) = self._open().execute("SELECT count(*) FROM answers").fetchone()
        except (sqlite3.Error, OSError):
            return 0
        return int(count)

    def keys(self, pictures: Tensor) -> list[bytes]:
        """The keys of ``(N, C, H, W)`` float32 pictures."""
        shape = repr(tuple(pictures.shape[1:])).encode()
        arrays = (picture.contiguous().numpy().data.cast("B") for picture in pictures.cpu())
        return [raw_digest([self._identity, b"\0", shape, array], size=16, person=b"answers") for array in arrays]

    def get(self, keys: Sequence[bytes]) -> list[int | None]:
        """The labels of pictures, ``None`` for those that it does not hold."""
        kept: dict[bytes, bytes] = {}
        try:
            database = self._open()
            for start in range(0, len(keys), _AT_A_TIME):
                some = keys[start : start + _AT_A_TIME]
                kept.update(database.execute(_KEPT.format(self._last, ",".join("?" * len(some))), some))
        except (sqlite3.Error, OSError):
            self._begin_anew()
        labels = [_label(key, kept.get(key)) for key in keys]
        self.found += sum(label is not None for label in labels)
        return labels

    def put(self, keys: Sequence[bytes], labels: Sequence[int]) -> None:
        """Keep the labels of pictures."""
        rows = [(key, _entry(key, label)) for key, label in zip(keys, labels, strict=True)]
        try:
            database = self._open()
            with database:
                database.executemany("INSERT OR REPLACE INTO answers (picture, answer) VALUES (?, ?)", rows)
                database.execute("DELETE FROM answers WHERE number <= (SELECT max(number) FROM answers) - ?", (_MOST,))
        except (sqlite3.Error, OSError):
            self._begin_anew()

    def close(self) -> None:
        """Close the file."""
        self._closed = True
        self._disconnect()

    def discard(self) -> None:
        """Delete the file: no image is left that its answers belong to."""
        self.close()
        self._delete()

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.ProgrammingError("closed")
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, timeout=1.0)
            self._database.executescript(_TABLES)
            (self._last,) = self._database.execute("SELECT ifnull(max(number), 0) FROM answers").fetchone()
        return self._database

    def _begin_anew(self) -> None:
        """Replace a file that SQLite cannot use, unless another process is using it."""
        self._disconnect()
        if not self._closed:
            self._delete()

    def _disconnect(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _delete(self) -> None:
        for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _entry(key: bytes, label: int) -> bytes:
    """A label with a checksum: SQLite does not notice a flipped bit."""
    number = label.to_bytes(8, "little", signed=True)
    return number + hashlib.blake2b(key + number, digest_size=8).digest()


def _label(key: bytes, entry: object) -> int | None:
    if not isinstance(entry, bytes):
        return None
    label = int.from_bytes(entry[:8], "little", signed=True)
    return label if entry == _entry(key, label) else None
