"""When a classifier says "later": recognise it, and wait.

A function or an adapter says it with :class:`~maskrestore.errors.RetryLater`. Time-outs, broken connections and the
HTTP statuses 429 and 503 say the same, whichever library raises them.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from maskrestore.errors import ConfigError, RetryLater

__all__ = ["LATER_STATUSES", "LONGEST_WAIT", "Waits", "asks_for_later", "longer", "retry_after"]

LONGEST_WAIT = 600.0
"""Seconds that a run waits at most until the classifier answers again."""

_FIRST, _MOST = 1.0, 60.0
"""Seconds: without a time of the classifier's own, the first wait is up to one and no wait is longer than the other."""

LATER_STATUSES = (429, 503, 504)
"""HTTP statuses: too many requests, unavailable, time-out of a gateway."""

_LATER_ELSEWHERE = {
    "httpx": ("TimeoutException", "NetworkError"),
    "requests": ("Timeout", "ConnectionError"),
    "urllib3.exceptions": ("TimeoutError", "ProtocolError"),
}
"""Time-outs and broken connections of libraries that do not derive them from Python's own."""


def asks_for_later(error: BaseException) -> RetryLater | None:
    """``error`` as a RetryLater, if it or its cause says that the same question may be answered later."""
    reason = getattr(error, "reason", None)  # urllib's URLError wraps what happened
    for one in (error, error.__cause__, reason):
        if isinstance(one, RetryLater):
            return one
        if isinstance(one, BaseException) and (found := _wish(one)) is not None:
            return RetryLater(found.seconds, _shown(error))
    return None


def _wish(error: BaseException) -> RetryLater | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # boto
        response = response.get("ResponseMetadata")
        status, headers = (response.get(name) for name in ("HTTPStatusCode", "HTTPHeaders")) if response else (0, {})
        return RetryLater(retry_after(headers)) if status in LATER_STATUSES else None
    statuses = [getattr(source, name, None) for source in (error, response) for name in ("status_code", "status")]
    statuses.append(getattr(error, "code", None))  # urllib
    if any(isinstance(status, int) and status in LATER_STATUSES for status in statuses):
        return RetryLater(retry_after(getattr(response, "headers", None) or getattr(error, "headers", None)))
    if isinstance(error, TimeoutError | ConnectionError) or _is_one_of(error, _LATER_ELSEWHERE):
        return RetryLater()
    return None


def longer(one: RetryLater | None, other: RetryLater) -> RetryLater:
    """The one that asks for more time; the first if they are equal."""
    return other if one is None or (other.seconds or 0) > (one.seconds or 0) else one


def retry_after(headers: object) -> float | None:
    """Seconds of the header ``Retry-After``, which holds a number or a date; None if it is missing or unreadable."""
    if not hasattr(headers, "get"):
        return None
    text = headers.get("Retry-After") or headers.get("retry-after")
    if not isinstance(text, str):
        return None
    try:
        return _usable(float(text))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:  # "-0000": a time in UTC
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


class Waits:
    """Waits as long as the classifier asks for, else exponentially longer each time, with full jitter.

    The sum of all waits has a limit. It begins anew with each answer.
    """

    def __init__(self, longest: float = LONGEST_WAIT) -> None:
        """longest: limit of the sum, in seconds; 0: never wait. Raises ConfigError if it is negative or no number."""
        if not longest >= 0:
            raise ConfigError(f"the longest wait must be 0 seconds or more, got {longest}")
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Begin anew: an answer has arrived."""
        self._count, self._waited = 0, 0.0

    def seconds(self, later: RetryLater) -> float | None:
        """How long to wait now; None if that would exceed the limit."""
        backoff = random.uniform(0, min(_MOST, _FIRST * 2 ** min(self._count, 20)))
        # At least a tenth of a second, so that "retry in 0 seconds" ends, too.
        wanted = _usable(later.seconds)
        wait = max(0.1, backoff if wanted is None else wanted)
        return wait if self._waited + wait <= self._longest else None

    def wait(self, seconds: float) -> None:
        """Wait, and count it."""
        self._count += 1
        self._waited += seconds
        time.sleep(seconds)


def _usable(seconds: float | None) -> float | None:
    """A finite number of 0 or more, else None."""
    return None if seconds is None or not math.isfinite(seconds) else max(0.0, seconds)


def _is_one_of(error: BaseException, classes: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether it is an instance of one of these classes, by module and name; none is imported for it."""
    loaded = [(sys.modules.get(module), names) for module, names in classes.items()]
    found: list[Any] = [getattr(module, name, None) for module, names in loaded if module for name in names]
    return isinstance(error, tuple(kind for kind in found if isinstance(kind, type)))


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
