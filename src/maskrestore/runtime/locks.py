"""File locks (POSIX ``flock``): several processes share work and files, each piece of work is done by one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from maskrestore.errors import ConfigError

__all__ = ["open_locked", "try_lock"]


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to lock the lock file ``path``, without waiting; yields whether this process got the lock.

    The operating system releases the lock of a process that dies, so a lock is never stale. The file is deleted with
    the lock; a file that a dead process left behind does no harm. Raises ConfigError on systems without POSIX locks
    (Windows).
    """
    fcntl = _fcntl()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ours = False
        else:
            # The owner before us may have deleted the file between our opening and our locking it.
            ours = _is_at(descriptor, path)
        try:
            yield ours
        finally:
            if ours:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


@contextmanager
def open_locked(path: Path) -> Iterator[int]:
    """Open a file for reading and appending once no other process has it locked; yields its descriptor.

    The file and its folder are created if there are none. Raises ConfigError as ``try_lock`` does.
    """
    fcntl = _fcntl()
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The owner before us may have replaced the file: then we hold the lock of a file that has no name.
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _fcntl() -> ModuleType:
    try:
        import fcntl  # noqa: PLC0415 - there is none on Windows
    except ImportError as error:
        raise ConfigError("this needs POSIX file locks, which this system lacks; use Linux or macOS") from error
    return fcntl
