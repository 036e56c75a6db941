"""Errors of the gateway, and the HTTP status of every error: the one place that decides it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from maskrestore.classifiers.open_inference_messages import MessageError
from maskrestore.errors import ClassifierError, InvalidImageError, MaskRestoreError, QueryBudgetError, RetryLater
from maskrestore.reporting import printable

__all__ = ["RESPONSES", "AbstainedError", "OverloadedError", "RefusedError", "TimeOverError", "described"]

_STATUSES = {
    400: "the request is not what is expected", 401: "no valid key", 403: "not for this key", 404: "there is none",
    408: "the body is too slow", 409: "another picture", 413: "too large", 415: "compressed",
    422: "the answer about a picture would be in doubt, so there is none",
    429: "a rate, a budget or a queue is full; see Retry-After", 503: "the model cannot be asked",
    504: "the time of the request is over",
}  # fmt: skip
_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_SHAPE = {"application/json": {"schema": _SCHEMA}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "an error", "content": _SHAPE},
    **{status: {"description": words, "content": _SHAPE} for status, words in _STATUSES.items()},
}
"""Errors in the description of the interface."""


class RefusedError(MaskRestoreError):
    """A request that gets an error, with its HTTP status."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after

    def __reduce__(self) -> tuple[Any, ...]:  # workers get it from another process
        return functools.partial(RefusedError, retry_after=self.retry_after), (self.status, str(self))


class OverloadedError(RefusedError):
    """A queue is full."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(429, message, retry_after=retry_after)


class AbstainedError(RefusedError):
    """Pictures are not answered, since the answer would be in doubt, and the output of the model cannot say so."""

    STATUS = 422

    def __init__(self, places: Sequence[int]) -> None:
        """places: of these pictures in the request."""
        super().__init__(
            self.STATUS,
            "the answer would be in doubt, so there is none, and this output cannot say so; pictures in doubt, counted "
            f"from 0: {', '.join(map(str, places))}",
        )


class TimeOverError(RefusedError):
    """The time of a request is over."""

    def __init__(self) -> None:
        super().__init__(504, "the time of the request is over")


def described(error: BaseException) -> tuple[int, str, dict[str, str]]:
    """The HTTP status of an error, what clients are told, and headers.

    Clients are told what they can change. What a model said, and where it is, is in the decision, for the operator.
    """
    words = printable(str(error))  # it may quote what no answer can hold, such as half a character
    match error:
        case RefusedError():
            return error.status, words, _retry_after(error.retry_after)
        case MessageError() | InvalidImageError():
            return 400, words, {}
        case QueryBudgetError():
            return 429, words, {}
        case RetryLater():
            return 503, "the model cannot be reached or is busy", _retry_after(error.seconds or 1)
        case ClassifierError():
            return 503, "the model failed at this picture", {}
    return 500, "the gateway failed at this request", {}


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}
