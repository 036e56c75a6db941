"""What is known of each image of a measurement, kept on disk as it comes, so that an interrupted one can go on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from maskrestore.runtime.environment import Environment, source_digest
from maskrestore.runtime.files import write_text_atomically

__all__ = ["ChunkLog", "log_key"]


class ChunkLog(ABC):
    """A file with a line for each chunk of images, after a line with ``key``, which names the measurement.

    A file of another measurement is started anew. A line that an interruption cut short is dropped.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        """path: where to keep the lines, or ``None`` to keep them in memory only."""
        self._path = path
        self.seconds = 0.0
        lines = self._read(key)
        if path is not None:
            write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in [{"key": key}, *lines]))

    @abstractmethod
    def _take(self, line: dict[str, Any]) -> None:
        """Take a line over. Raises ValueError, KeyError or TypeError for one that is not whole."""

    def _add(self, line: dict[str, Any]) -> None:
        """Take a new line over and write it."""
        self._take(line)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def discard(self) -> None:
        """Delete the file: the record is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, key: str) -> list[dict[str, Any]]:
        """Take over what an interrupted run of the same measurement left; returns its lines."""
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
                break  # cut short
            lines.append(line)
        return lines[1:]


def log_key(digest: str, environment: Environment, version: int) -> str:
    """The key of a measurement by this revision of the code: another one may answer differently, and is not mixed in.

    digest: of everything that was asked for. version: of the records.
    """
    libraries = json.dumps(environment.libraries, sort_keys=True)
    return f"{digest} {environment.commit} {source_digest()} {libraries} {version}"
