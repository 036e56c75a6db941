"""Records in JSONL files: one record a line, found by its name, appended safely by several processes.

A line that comes later replaces an earlier one of the same name. A last line without its end is one that a process
could not finish: readers pass over it, and the next append removes it.
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
    """What a record file holds: a dataclass with a name; the default of its field ``version`` is its schema."""

    @property
    def name(self) -> str:
        """Identifies the record in its file."""
        ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class RecordFile(Generic[T]):
    """A JSONL file of records of one kind. The file need not exist yet."""

    path: Path
    kind: type[T]

    def read(self) -> Mapping[str, T]:
        """All records by name, sorted by it; none without a file. Raises DataError that names the file and the line."""
        return cast(Mapping[str, T], _parsed(self.path, self.kind, _signature(self.path)))

    def get(self, name: str) -> T | None:
        """The record of that name, if there is one. Raises DataError as ``read`` does."""
        return self.read().get(name)

    def append(self, *records: T) -> None:
        """Add records with one write, while no other process writes. Raises DataError for one that is not valid."""
        data = "".join(f"{_line(record, self.kind)}\n" for record in records).encode()
        with open_locked(self.path) as descriptor:
            size = _without_torn_line(descriptor)
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(f"{self.path}: the record could not be written whole; is the disk full?")

    def remove(self, name: str) -> None:
        """Remove the record of that name, if there is one."""
        if self.get(name) is not None:
            self._rewrite(without=name)

    def compact(self) -> None:
        """Sort the lines by name, and drop the ones that later lines replaced. Raises DataError as ``read`` does."""
        if self.path.exists():
            self._rewrite()

    def log_path(self, name: str) -> Path:
        """Where to keep what is known of a record while it is made."""
        return self.path.with_name(f"{name}.partial.jsonl")

    def is_compact(self) -> bool:
        """Whether ``compact`` would change nothing."""
        return not self.path.exists() or self.path.read_bytes() == _text(self._lines().values()).encode()

    def _rewrite(self, *, without: str | None = None) -> None:
        with open_locked(self.path):
            lines = self._lines()
            lines.pop(without or "", None)
            write_text_atomically(self.path, _text(lines.values()))

    def _lines(self) -> dict[str, str]:
        """The line of each record as it is written, sorted by name."""
        found = {record.name: line for line, record in _parsed_lines(self.path, self.kind)}
        return dict(sorted(found.items()))


def cell_records(path: Path) -> RecordFile[Record]:
    """The records of evaluations: of a ``.jsonl`` file, or of ``cells.jsonl`` in a folder."""
    return RecordFile(path if path.suffix == ".jsonl" else path / "cells.jsonl", Record)


def read_records(path: Path) -> list[Record]:
    """All records of evaluations of a file or folder, by name. Raises DataError if there are none or one is broken."""
    file = cell_records(path)
    records = list(file.read().values())
    if not records:
        raise DataError(f"{file.path} holds no records; make some with `maskrestore evaluate --out {path}`")
    return records


def record_name(*words: str, digest: str) -> str:
    """A name for a record, made of words and the start of a digest."""
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
    """Changes with the file; ``None`` without one."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=16)  # every table of a results page asks for the same files
def _parsed(path: Path, kind: type[T], signature: tuple[int, ...] | None) -> Mapping[str, T]:
    if signature is None:
        return MappingProxyType({})
    found = {record.name: record for _, record in _parsed_lines(path, kind)}
    return MappingProxyType(dict(sorted(found.items())))


def _parsed_lines(path: Path, kind: type[T]) -> list[tuple[str, T]]:
    """Each whole line with the record in it. Raises DataError that names the file and the line."""
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last end of a line is torn, or nothing
    found = []
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode()
            found.append((text, decode(kind, json.loads(text))))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return found


def _without_torn_line(descriptor: int) -> int:
    """Cut a file off after its last whole line; returns its size."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole
