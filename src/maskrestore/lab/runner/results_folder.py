"""The folder of a reproduction: records of cells, failures, and locks of the cells that are being measured."""

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
"""Schema version, incremented when the meaning or the layout of a failure changes."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error of a cell that could not be measured."""

    version: int = FAILURE_VERSION
    name: str
    """Name of the cell."""
    error: str
    """The error message."""
    created: str
    """UTC, ISO 8601."""
    commit: str
    """Revision of the code."""


@dataclass(frozen=True)
class ResultsFolder:
    """The output folder of ``maskrestore reproduce``. Several processes may use it at once."""

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
        """Return the record of a cell, or ``None``. Raises DataError if the file is broken."""
        return (self.detections if cell.variant.detects else self.cells).get(cell.name)

    def lock(self, cell: Cell) -> AbstractContextManager[bool]:
        """Return a context manager that tries to lock a cell: see ``try_lock``."""
        return try_lock(self.path / f"{cell.name}.lock")

    def note_failure(self, cell: Cell, error: str) -> None:
        """Record the error of a cell."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        commit = current_environment().commit
        self.failures.append(Failure(name=cell.name, error=error, created=created, commit=commit))

    def compact(self) -> None:
        """Sort the records by name and remove replaced lines. Raises DataError if a file is broken."""
        for file in (self.cells, self.detections, self.failures):
            file.compact()
