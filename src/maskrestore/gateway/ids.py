"""Ids of decisions and requests: texts of hex digits; later ones are larger."""

from __future__ import annotations

import secrets
import threading
import time

__all__ = ["new_id", "sign", "take_every"]

_LOCK = threading.Lock()
_latest, _step, _offset = 0, 1, 0
_end = ""


def new_id() -> str:
    """The time in microseconds, or a little more: no two are the same."""
    global _latest  # noqa: PLW0603 - one clock for the process
    with _LOCK:
        now = time.time_ns() // 1000
        _latest = max(_latest + _step, now - now % _step + _offset)
        return f"{_latest:014x}{_end}"


def sign() -> None:
    """Let all ids of this process end with eight digits of its own: other machines may have the same time."""
    global _end  # noqa: PLW0603
    with _LOCK:
        _end = _end or secrets.token_hex(4)


def take_every(step: int, offset: int) -> None:
    """Leave the other numbers to other processes: from now on, ids are ``offset`` more than a multiple of ``step``."""
    global _latest, _step, _offset
    with _LOCK:
        _latest, _step, _offset = 0, step, offset
