"""Labels of classes that a classifier knows by name: numbers in the order in which the names first appear."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from maskrestore.errors import ClassifierOutputError, ConfigError
from maskrestore.runtime.files import write_text_atomically
from maskrestore.runtime.locks import open_locked

__all__ = ["ClassNames", "unknown_class"]

_LONGEST = 500
"""Characters of a name."""

_MOST = 100_000
"""Names: more are no classes, but texts that are different for each picture."""


class ClassNames:
    """Numbers for names, the same for the same name. Safe for use by several threads; it can be pickled."""

    def __init__(self, known: Sequence[str] | None = None) -> None:
        """known: all names in the order of their labels; ``None``: each new name gets the next number.

        Raises ConfigError for a name that occurs twice.
        """
        self._names = list(known or [])
        self._numbers = {name: number for number, name in enumerate(self._names)}
        if len(self._numbers) < len(self._names):
            raise ConfigError(f"each class needs a name of its own, got {len(self._names)} with repetitions")
        self._closed = known is not None
        self._path: Path | None = None
        self._shared = False
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names so far, in the order of their numbers."""
        return tuple(self._names)

    def keep(self, path: Path, *, shared: bool = False) -> None:
        """Read the names from a JSON file, if there is one, and write each new name there from now on.

        So labels mean the same in a later run and, if the file is shared, in other processes at the same time. Raises
        ConfigError if the file holds something else, or if its names contradict those that are known.
        """
        if self._closed:
            return
        with self._lock:
            kept = _read(path)
            if kept[: len(self._names)] != self._names[: len(kept)]:
                raise ConfigError(f"{path} holds other labels for the same classes; use another folder for the results")
            self._names = max(kept, self._names, key=len)
            self._numbers = {name: number for number, name in enumerate(self._names)}
            self._path, self._shared = path, shared

    def close(self) -> None:
        """Take no new names: where several processes could give one number to two of them."""
        self._closed = True

    def number(self, name: str) -> int:
        """The label of a class. Raises ClassifierOutputError for a text that is none."""
        if len(name) > _LONGEST or not name.strip():
            raise ClassifierOutputError(
                f"expected the name of a class, got a text of {len(name)} characters: {' '.join(name[:80].split())!r}"
            )
        with self._lock:
            if name not in self._numbers:
                self._add(name)
            return self._numbers[name]

    def _add(self, name: str) -> None:
        if self._closed:
            raise unknown_class(name, self._names)
        if len(self._names) >= _MOST:
            raise ClassifierOutputError(
                f"the classifier has answered with {_MOST} different texts; is that a label? At last {name[:60]!r}"
            )
        if self._path is None:
            self._append(name)
            return
        with open_locked(self._path) if self._shared else nullcontext():
            if self._shared:
                for other in _read(self._path)[len(self._names) :]:
                    self._append(other)
            if name not in self._numbers:
                names = [*self._names, name]
                write_text_atomically(self._path, json.dumps(names, ensure_ascii=False, indent=1) + "\n")
                self._append(name)

    def _append(self, name: str) -> None:
        self._numbers[name] = len(self._names)
        self._names.append(name)


def unknown_class(name: str, classes: Sequence[str]) -> ClassifierOutputError:
    """The error for an answer that is none of the classes."""
    if not classes:
        return ClassifierOutputError(f"the classifier answered {name[:60]!r}, a name; give the names of all classes")
    known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    return ClassifierOutputError(
        f"the classifier answered {name[:60]!r}, which is none of its {len(classes)} classes: {known}"
    )


def _read(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8") or "[]")  # empty while another process creates it
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the names of classes cannot be read: {error}; without them, the labels in this "
                          "folder mean nothing; use another folder") from None  # fmt: skip
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ConfigError(f"{path}: expected a list of different names")
    return names
