"""What a reproduction keeps in its folder: the records of its cells, their failures, and the locks of running cells."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from maskrestore.lab.measure.detection import DetectionRecord, detection_records
from maskrestore.lab.measure.record_files import RecordFile, cell_records
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.cells import Cell
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.locks import try_lock

__all__ = ["FAILURE_VERSION", "Failure", "ResultsFolder"]

FAILURE_VERSION = 1
"""Raised when the meaning or the layout of a failure changes."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error of a cell that could not be measured."""

    version: int = FAILURE_VERSION
    name: str
    """Of the cell."""
    error: str
    created: str
    """UTC, ISO 8601."""
    commit: str
    """Revision of the code that failed."""


@dataclass(frozen=True)
class ResultsFolder:
    """A folder of ``maskrestore reproduce``. Several processes may use it at once."""

    path: Path

    @property
    def cells(self) -> RecordFile[Record]:
        """The records of cells with a defense: ``cells.jsonl``."""
        return cell_records(self.path)

    @property
    def detections(self) -> RecordFile[DetectionRecord]:
        """The records of cells with a detector: ``detections.jsonl``."""
        return detection_records(self.path)

    @property
    def failures(self) -> RecordFile[Failure]:
        """The errors of cells that could not be measured: ``failures.jsonl``."""
        return RecordFile(self.path / "failures.jsonl", Failure)

    def record_of(self, cell: Cell) -> Record | DetectionRecord | None:
        """The record of a cell, if there is one. Raises DataError if the file is broken."""
        return (self.detections if cell.variant.detects else self.cells).get(cell.name)

    def lock(self, cell: Cell) -> AbstractContextManager[bool]:
        """Try to lock a cell: see ``try_lock``."""
        return try_lock(self.path / f"{cell.name}.lock")

    def note_failure(self, cell: Cell, error: str) -> None:
        """Keep the error of a cell."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        commit = current_environment().commit
        self.failures.append(Failure(name=cell.name, error=error, created=created, commit=commit))

    def compact(self) -> None:
        """Sort the records by name, and drop the lines that later ones replaced."""
        for file in (self.cells, self.detections, self.failures):
            file.compact()
