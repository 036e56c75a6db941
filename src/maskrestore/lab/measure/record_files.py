"""Records in JSONL files: one record per line, looked up by name; several processes may append at once.

A later line replaces an earlier one with the same name. If a process is interrupted while it writes, the last line has
no newline: readers ignore such a line, and the next append removes it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

from maskrestore.errors import DataError
from maskrestore.lab.measure.records import Record, decode
from maskrestore.runtime.files import write_text_atomically
from maskrestore.runtime.locks import open_locked

__all__ = ["Named", "RecordFile", "cell_records", "read_records", "record_name"]


class Named(Protocol):
    """A record in a file: a dataclass with a name. The default of its field ``version`` is the schema version."""

    @property
    def name(self) -> str:
        """Identifies the record in its file."""
        ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class RecordFile(Generic[T]):
    """A JSONL file with records of one kind. It may not exist yet."""

    path: Path
    kind: type[T]

    def read(self) -> Mapping[str, T]:
        """Return all records by name, sorted; an empty mapping when the file does not exist.

        Raises DataError, which names the file and the line, for an invalid record.
        """
        return cast(Mapping[str, T], _parsed(self.path, self.kind, _signature(self.path)))

    def get(self, name: str) -> T | None:
        """Return the record with this name, or ``None``. Raises DataError as ``read`` does."""
        return self.read().get(name)

    def append(self, *records: T) -> None:
        """Append records in one write under a file lock.

        Raises DataError for an invalid record, and OSError when the write is incomplete (the file is then unchanged).
        """
        data = "".join(f"{_line(record, self.kind)}\n" for record in records).encode()
        with open_locked(self.path) as descriptor:
            size = _without_torn_line(descriptor)
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(f"{self.path}: the record could not be written completely; is the disk full?")

    def remove(self, name: str) -> None:
        """Remove the record with this name, if it exists. Raises DataError as ``read`` does."""
        if self.get(name) is not None:
            self._rewrite(without=name)

    def compact(self) -> None:
        """Sort the lines by name and remove replaced ones. Raises DataError as ``read`` does."""
        if self.path.exists():
            self._rewrite()

    def log_path(self, name: str) -> Path:
        """Return the path of the log for partial results of a record that is being measured."""
        return self.path.with_name(f"{name}.partial.jsonl")

    def is_compact(self) -> bool:
        """Return whether the lines are sorted and none is replaced, so that ``compact`` would change nothing."""
        return not self.path.exists() or self.path.read_bytes() == _text(self._lines().values()).encode()

    def _rewrite(self, *, without: str | None = None) -> None:
        with open_locked(self.path):
            lines = self._lines()
            lines.pop(without or "", None)
            write_text_atomically(self.path, _text(lines.values()))

    def _lines(self) -> dict[str, str]:
        """Return the line of each record, unchanged, sorted by name."""
        found = {record.name: line for line, record in _parsed_lines(self.path, self.kind)}
        return dict(sorted(found.items()))


def cell_records(path: Path) -> RecordFile[Record]:
    """Return the file of evaluation records: ``path`` itself if it ends with ``.jsonl``, else ``path/cells.jsonl``."""
    return RecordFile(path if path.suffix == ".jsonl" else path / "cells.jsonl", Record)


def read_records(path: Path) -> list[Record]:
    """Return all evaluation records of a file or folder, sorted by name.

    Raises DataError when there are none or one is invalid.
    """
    file = cell_records(path)
    records = list(file.read().values())
    if not records:
        raise DataError(f"{file.path} contains no records; make some with `maskrestore evaluate --out {path}`")
    return records


def record_name(*words: str, digest: str) -> str:
    """Return a name for a record: the words and the first 8 digits of the digest, joined by underscores."""
    return "_".join([*(re.sub(r"[^\w.-]+", "-", word).strip("-") for word in words), digest[:8]])


def _line(record: T, kind: type[T]) -> str:
    text = json.dumps(dataclasses.asdict(cast(Any, record)), separators=(",", ":"))
    try:
        decode(kind, json.loads(text))
    except ValueError as error:
        raise DataError(f"the record {record.name!r} is not valid: {error}") from error
    return text


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes when the file changes; ``None`` when it does not exist."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=16)  # all tables of the results pages read the same files
def _parsed(path: Path, kind: type[T], signature: tuple[int, ...] | None) -> Mapping[str, T]:
    if signature is None:
        return MappingProxyType({})
    found = {record.name: record for _, record in _parsed_lines(path, kind)}
    return MappingProxyType(dict(sorted(found.items())))


def _parsed_lines(path: Path, kind: type[T]) -> list[tuple[str, T]]:
    """Return each complete line with its record. Raises DataError, which names the file and the line."""
    *lines, _ = path.read_bytes().split(b"\n")  # after the last newline there is an incomplete line or nothing
    found = []
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode()
            found.append((text, decode(kind, json.loads(text))))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return found


def _without_torn_line(descriptor: int) -> int:
    """Truncate a file after its last complete line. Returns the new size."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole
