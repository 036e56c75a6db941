"""Write files atomically."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replaced_atomically", "write_text_atomically"]


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; the file there takes its place if nothing is raised.

    Raises OSError if it cannot.
    """
    # Short, because the name of the file may be as long as the file system allows.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_native_id()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file and create its folder; after an interruption it has either the old or the new content.

    Raises OSError if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
