"""Errors of the gateway, and the HTTP status of every error: the one place that decides it."""

from __future__ import annotations

import math

from maskrestore.classifiers.open_inference_messages import MessageError
from maskrestore.errors import ClassifierError, InvalidImageError, MaskRestoreError, QueryBudgetError, RetryLater

__all__ = ["OverloadedError", "RefusedError", "described"]


class RefusedError(MaskRestoreError):
    """A request that gets an error, with its HTTP status."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class OverloadedError(RefusedError):
    """A queue is full."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(429, message, retry_after=retry_after)


def described(error: BaseException) -> tuple[int, str, dict[str, str]]:
    """The HTTP status of an error, what clients are told, and headers.

    Clients are told what they can change. What a model said, and where it is, is in the decision, for the operator.
    """
    match error:
        case RefusedError():
            return error.status, str(error), _retry_after(error.retry_after)
        case MessageError() | InvalidImageError():
            return 400, str(error), {}
        case QueryBudgetError():
            return 429, str(error), {}
        case RetryLater():
            return 503, "the model cannot be reached or is busy", _retry_after(error.seconds or 1)
        case ClassifierError():
            return 503, "the model failed at this picture", {}
    return 500, "the gateway failed at this request", {}


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}
