"""Keep the partial results of a measurement on disk, so that an interrupted measurement can go on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from maskrestore.runtime.environment import Environment, source_digest
from maskrestore.runtime.files import write_text_atomically

__all__ = ["PartialResults", "measurement_key"]


class PartialResults(ABC):
    """A JSONL file: the first line holds the key of the measurement, each further line the results of some images.

    A file with another key is overwritten. An incomplete last line, left by an interruption, is dropped.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        """path: the file, or ``None`` to keep results in memory only. key: see :func:`measurement_key`."""
        self._path = path
        self.seconds = 0.0
        lines = self._read(key)
        if path is not None:
            write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in [{"key": key}, *lines]))

    @abstractmethod
    def _take(self, line: dict[str, Any]) -> None:
        """Add the results of a line. Raises ValueError, KeyError or TypeError if the line is incomplete."""

    def _add(self, line: dict[str, Any]) -> None:
        """Add the results of a new line and append it to the file."""
        self._take(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def discard(self) -> None:
        """Delete the file, once the record of the whole measurement is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, key: str) -> list[dict[str, Any]]:
        """Add the results that an interrupted run of the same measurement left, and return their lines."""
        if self._path is None or not self._path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
                if lines:
                    self._take(line)
                elif line != {"key": key}:
                    return []
            except (ValueError, KeyError, TypeError):
                break  # incomplete
            lines.append(line)
        return lines[1:]


def measurement_key(digest: str, environment: Environment, version: int) -> str:
    """The key of a measurement with this version of the code. Another version may give other results.

    digest: of the settings of the measurement. version: of the format of records.
    """
    libraries = json.dumps(environment.libraries, sort_keys=True)
    return f"{digest} {environment.commit} {source_digest()} {libraries} {version}"
