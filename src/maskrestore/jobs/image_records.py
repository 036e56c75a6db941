"""``records.jsonl``, one record per image of a folder, with an index on disk, so that memory use stays constant."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from maskrestore.jobs.sources import Found
from maskrestore.runtime.digests import raw_digest
from maskrestore.runtime.files import replaced_atomically

__all__ = ["ImageRecords", "UnwrittenRecordError"]

_TABLES = """
PRAGMA journal_mode = OFF;  -- the index does not outlive the process: there is nothing to roll back
CREATE TABLE images (name BLOB PRIMARY KEY, folded BLOB, stem BLOB, place TEXT) WITHOUT ROWID;  -- folded: in lower case
CREATE TABLE records (name BLOB PRIMARY KEY, line BLOB, output BLOB);
CREATE TABLE left_out (name BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE INDEX folded_names ON images (folded);
CREATE INDEX stems ON images (stem);
CREATE INDEX outputs ON records (output);
"""
_LISTED = """
SELECT name, line,
    EXISTS (SELECT 1 FROM images AS other WHERE other.stem = images.stem AND other.name != images.name)
    OR EXISTS (SELECT 1 FROM images AS other WHERE other.folded = images.stem),
    EXISTS (SELECT 1 FROM images AS other WHERE other.folded = images.folded AND other.name != images.name)
FROM images LEFT JOIN records USING (name) ORDER BY name
"""
_RECORDED = "SELECT line FROM images JOIN records USING (name) ORDER BY name"
_ALL = """
SELECT name, line, NULL FROM records WHERE name NOT IN (SELECT name FROM left_out)
UNION ALL SELECT name, NULL, reason FROM left_out ORDER BY name
"""

_MAX_NAME_BYTES = 255 - len(".png")
"""Of a file or a folder of the results, without its suffix. Most file systems allow 255 bytes."""
_DIGEST_BYTES = 16
_SHORTENED = re.compile(rf"~[0-9a-f]{{{2 * _DIGEST_BYTES}}}$")
_LIKE_A_RESULT = re.compile(r"\.(png|npz)~*$", re.IGNORECASE)


class UnwrittenRecordError(OSError):
    """``records.jsonl`` cannot be written."""


class ImageRecords:
    """The images of a folder in the order of their names, and the records of those that have one.

    The file ``records.jsonl`` is permanent: a line is appended when an image is finished, and the last line of an image
    counts. The index is built from it at the start. It is a temporary SQLite database in a file that SQLite removes on
    close; about two megabytes of it are in memory, whatever the number of images.
    """

    def __init__(self, path: Path, files: Iterable[Found]) -> None:
        """path: of ``records.jsonl``; may be missing.

        files: images and what is left out, in any order.
        """
        self.purified = 0
        """Number of records added without an error."""
        self.amended = 0
        """Number of records that :meth:`amend` replaced."""
        self._path = path
        self._index = sqlite3.connect("")  # a temporary file of its own
        self._index.executescript(_TABLES)
        for name, reason, place in files:
            if reason is None:
                row = map(os.fsencode, (name, _folded(name), _folded(_stem(name))))
                self._index.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?)", (*row, json.dumps(place)))
            else:
                self._index.execute("INSERT OR REPLACE INTO left_out VALUES (?, ?)", (os.fsencode(name), reason))
        if path.exists():
            self._read()

    def __len__(self) -> int:
        """The number of images."""
        (count,) = self._index.execute("SELECT count(*) FROM images").fetchone()
        return int(count)

    def left_out(self) -> dict[str, int]:
        """How many files and folders are left out, by reason."""
        return dict(self._index.execute("SELECT reason, count(*) FROM left_out GROUP BY reason ORDER BY 2 DESC, 1"))

    def names_left_out(self, reason: str, most: int) -> list[str]:
        """Some of the names that are left out for a reason, in order."""
        rows = self._index.execute("SELECT name FROM left_out WHERE reason = ? ORDER BY name LIMIT ?", (reason, most))
        return [os.fsdecode(name) for (name,) in rows]

    def images(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """For each image its name, the name of its results, and its record, or an empty one if it has none.

        The results of ``sub/a.jpg`` are named ``sub/a``, or ``sub/a.jpg`` if another image has the same stem or is
        named ``sub/a``. No two images have results of the same name, also where case does not count.
        """
        for key, line, shared, differs_in_case in self._index.execute(_LISTED):
            name = os.fsdecode(key)
            output = _output(name, name if shared else _stem(name), differs_in_case)
            yield name, output, json.loads(line) if line else {}

    def images_failed_last(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """As :meth:`images`, but those last that failed in an earlier run.

        Else a run that stops after some failures in a row would never get past them.
        """
        failed = []
        for image in self.images():
            if image[2].get("error") is not None:
                failed.append(image)
            else:
                yield image
        yield from failed

    def found(self, name: str) -> Found:
        """An image of the source, by its name. Raises KeyError if it is not there."""
        row = self._index.execute("SELECT place FROM images WHERE name = ?", (os.fsencode(name),)).fetchone()
        if row is None:
            raise KeyError(f"there is no image {name!r}")
        return Found(name, place=tuple(json.loads(row[0])))

    def record(self, name: str) -> dict[str, Any]:
        """The record of an image. Raises KeyError if it has none."""
        row = self._index.execute("SELECT line FROM records WHERE name = ?", (os.fsencode(name),)).fetchone()
        if row is None:
            raise KeyError(f"there is no record of {name!r}")
        found: dict[str, Any] = json.loads(row[0])
        return found

    def outputs(self) -> Iterator[str]:
        """Where the results are that records name, also those of images that are gone."""
        for (output,) in self._index.execute("SELECT output FROM records WHERE output != x''"):
            yield os.fsdecode(output)

    def records(self, config_digest: str | None = None) -> Iterator[dict[str, Any]]:
        """The records of the images, in order; with ``config_digest``, only records of those settings."""
        for (line,) in self._index.execute(_RECORDED):
            record = json.loads(line)
            if config_digest in (None, record.get("config_digest")):
                yield record

    def add(self, record: dict[str, Any], *, new: bool = True) -> None:
        """Append a record and hand it to the operating system. Raises UnwrittenRecordError.

        new: whether it tells of an image that this run purified.
        """
        line = json.dumps(record).encode() + b"\n"
        with self._writing():
            self._append(line)
        self._insert(record, line)
        self.purified += new and record["error"] is None

    def amend(self, record: dict[str, Any]) -> None:
        """Put a record in the place of the one of the same image; :meth:`compact` writes it."""
        self._insert(record, json.dumps(record).encode() + b"\n")
        self.amended += 1

    def compact(self) -> None:
        """Replace ``records.jsonl`` atomically by one line per image or thing that is left out, sorted by name.

        Raises UnwrittenRecordError.
        """
        with self._writing(), replaced_atomically(self._path) as draft, draft.open("wb") as file:
            for name, line, reason in self._index.execute(_ALL):
                file.write(line or _left_out_line(os.fsdecode(name), reason))

    def close(self) -> None:
        """Remove the index."""
        self._index.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise UnwrittenRecordError(f"the records cannot be written: {error}") from error

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) != len(line):
                file.truncate(end)  # the next record must not continue half a line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _read(self) -> None:
        whole = True
        with self._path.open("rb") as file:
            for line in file:
                whole = line.endswith(b"\n")
                try:
                    record = json.loads(line)
                    if "left_out" not in record and "error" in record:  # each walk finds out anew what is left out
                        self._insert(record, json.dumps(record).encode() + b"\n")
                except (ValueError, KeyError, TypeError, RecursionError, sqlite3.Error):
                    continue  # cut off by an interruption: the image has no record and is purified again
        if not whole:
            self.compact()

    def _insert(self, record: dict[str, Any], line: bytes) -> None:
        key, output = os.fsencode(record["file"]), os.fsencode(record.get("output") or "")
        # The results of an image that is gone may have been replaced by those of another.
        self._index.execute("DELETE FROM records WHERE output = ? AND output != x'' AND name != ?", (output, key))
        self._index.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (key, line, output))


def _left_out_line(name: str, reason: str) -> bytes:
    return json.dumps({"file": name, "left_out": reason, "error": f"left out: {reason}"}).encode() + b"\n"


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _folded(name: str) -> str:
    """The same for names that some file systems take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def _output(name: str, wanted: str, differs_in_case: bool) -> str:
    """The name of the results of an image, without a suffix.

    It is the wanted one, unless that is too long, differs from another in case only, or could be a shortened one of
    another image: then it ends in a digest of the image's name.
    """
    *folders, last = wanted.split("/")
    # A folder must not have the name of a result: "a.png/b.jpg" beside "a.jpg".
    folders = [_shortened(f"{one}~", one) if _LIKE_A_RESULT.search(one) else _shortened(one, one) for one in folders]
    return "/".join([*folders, _shortened(last, name, always=differs_in_case)])


def _shortened(text: str, name: str, *, always: bool = False) -> str:
    """A text that fits into a name of a file; a shortened one ends in a digest of ``name``."""
    if not always and len(os.fsencode(text)) <= _MAX_NAME_BYTES and not _SHORTENED.search(text):
        return text
    digest = raw_digest([os.fsencode(name)], size=_DIGEST_BYTES).hex()
    start = os.fsencode(text)[: _MAX_NAME_BYTES - 1 - len(digest)].decode("utf-8", "ignore")
    return f"{start}~{digest}"
