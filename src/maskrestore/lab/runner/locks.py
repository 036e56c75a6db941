"""Claim files: several processes share work, and each piece is done by one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrestore.errors import ConfigError

__all__ = ["claim"]


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim a piece of work by the lock on the file ``path``; yields whether it is ours.

    The system gives the lock of a process that dies back, so a claim is never stale: whoever comes next takes it. The
    file is deleted with the claim; one that a dead process left does no harm. Raises ConfigError where the system
    has no such locks (Windows).
    """
    try:
        import fcntl  # noqa: PLC0415 - there is none on Windows
    except ImportError as error:
        raise ConfigError("sharing work needs POSIX file locks, which this system lacks; use Linux or macOS") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ours = False
        else:
            # The owner before us may have deleted the file between our opening and our locking it.
            ours = os.fstat(descriptor).st_nlink > 0
        try:
            yield ours
        finally:
            if ours:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
