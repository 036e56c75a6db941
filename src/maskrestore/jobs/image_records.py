"""``records.jsonl``, one record per image of a folder, with an index on disk, so that memory use stays constant."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["ImageRecords"]

_TABLES = """
PRAGMA journal_mode = OFF;  -- the index does not outlive the process: there is nothing to roll back
CREATE TABLE images (name BLOB PRIMARY KEY, folded BLOB, stem BLOB) WITHOUT ROWID;  -- folded: in lower case
CREATE TABLE records (name BLOB PRIMARY KEY, line BLOB);
CREATE INDEX folded_names ON images (folded);
CREATE INDEX stems ON images (stem);
"""
_LISTED = """
SELECT name, line,
    EXISTS (SELECT 1 FROM images AS other WHERE other.stem = images.stem AND other.name != images.name)
    OR EXISTS (SELECT 1 FROM images AS other WHERE other.folded = images.stem)
FROM images LEFT JOIN records USING (name) ORDER BY name
"""
_RECORDED = "SELECT line FROM images JOIN records USING (name) ORDER BY name"


class ImageRecords:
    """The images of a folder in the order of their names, and the records of those that have one.

    The file ``records.jsonl`` is permanent: a line is appended when an image is finished, and the last line of an image
    counts. The index is built from it at the start. It is a temporary SQLite database in a file that SQLite removes on
    close; about two megabytes of it are in memory, whatever the number of images.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        """path: of ``records.jsonl``; may be missing. names: of the images, in any order, with forward slashes."""
        self.purified = 0
        """Number of records added without an error."""
        self._path = path
        self._index = sqlite3.connect("")  # a temporary file of its own
        self._index.executescript(_TABLES)
        rows = ((name, name.lower(), _stem(name).lower()) for name in names)
        encoded = (tuple(map(os.fsencode, row)) for row in rows)
        self._index.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", encoded)
        if path.exists():
            self._read()

    def __len__(self) -> int:
        """The number of images."""
        (count,) = self._index.execute("SELECT count(*) FROM images").fetchone()
        return int(count)

    def images(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """For each image its name, the name of its results, and its record, or an empty one if it has none.

        The results of ``sub/a.jpg`` are named ``sub/a``, or ``sub/a.jpg`` if another image has the same stem or is
        named ``sub/a``.
        """
        for key, line, shared in self._index.execute(_LISTED):
            name = os.fsdecode(key)
            yield name, name if shared else _stem(name), json.loads(line) if line else {}

    def record(self, name: str) -> dict[str, Any]:
        """The record of an image. Raises KeyError if it has none."""
        row = self._index.execute("SELECT line FROM records WHERE name = ?", (os.fsencode(name),)).fetchone()
        if row is None:
            raise KeyError(f"there is no record of {name!r}")
        found: dict[str, Any] = json.loads(row[0])
        return found

    def records(self, config_digest: str | None = None) -> Iterator[dict[str, Any]]:
        """The records of the images, in order; with ``config_digest``, only records of those settings."""
        for (line,) in self._index.execute(_RECORDED):
            record = json.loads(line)
            if config_digest in (None, record.get("config_digest")):
                yield record

    def add(self, record: dict[str, Any]) -> None:
        """Append a record and hand it to the operating system."""
        line = json.dumps(record).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(line)
        self._insert(record["file"], line)
        self.purified += record["error"] is None

    def compact(self) -> None:
        """Replace ``records.jsonl`` atomically by one line per image, sorted by name."""
        draft = self._path.with_name(self._path.name + ".part")
        draft.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.writelines(line for (line,) in self._index.execute("SELECT line FROM records ORDER BY name"))
        draft.replace(self._path)

    def close(self) -> None:
        """Remove the index."""
        self._index.close()

    def _read(self) -> None:
        whole = True
        with self._path.open("rb") as file:
            for line in file:
                whole = line.endswith(b"\n")
                try:
                    record = json.loads(line)
                    self._insert(record["file"], json.dumps(record).encode() + b"\n")
                except (ValueError, KeyError, TypeError):
                    continue  # cut off by an interruption: the image has no record and is purified again
        if not whole:
            self.compact()

    def _insert(self, name: str, line: bytes) -> None:
        self._index.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (os.fsencode(name), line))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
