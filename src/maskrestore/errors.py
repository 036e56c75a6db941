"""Every error that maskrestore raises on purpose.

::

    MaskRestoreError
    ├── InvalidImageError (ValueError)        pixels, shape, dtype or batch that cannot be used
    │   └── ImageFileError                    a file that cannot be read or written (truncated, huge, animated, ...)
    ├── ConfigError (ValueError)              a setting outside its range
    │   └── UnknownNameError                  a name that no registry holds; lists the known ones
    ├── ClassifierError (RuntimeError)        the classifier cannot be loaded or failed
    │   ├── ClassifierOutputError             it did not answer with one integer label for each image
    │   ├── QueryBudgetError                  the next query would exceed the budget
    │   ├── RetryLater                        it is busy, or limits its rate: the same query may be answered later
    │   ├── ClassifierStoppedError            it failed too often in a row, and is not asked any more
    │   └── PurificationInterruptedError      it raised during a batch; ``partial`` holds the finished images
    ├── CheckpointError (RuntimeError)        weights that are missing, unsafe, truncated or of the wrong shape
    ├── DataError (RuntimeError)              a data set that is missing or not laid out as expected
    └── MissingDependencyError (ImportError)  an optional extra is not installed; names the extra

Messages state what was found, what was expected, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrestore.types import Purification

__all__ = [
    "CheckpointError",
    "ClassifierError",
    "ClassifierOutputError",
    "ClassifierStoppedError",
    "ConfigError",
    "DataError",
    "ImageFileError",
    "InvalidImageError",
    "MaskRestoreError",
    "MissingDependencyError",
    "PurificationInterruptedError",
    "QueryBudgetError",
    "RetryLater",
    "UnknownNameError",
]


class MaskRestoreError(Exception):
    """Base class of all errors of maskrestore: catch it to catch any of them."""


class InvalidImageError(MaskRestoreError, ValueError):
    """Images of the wrong shape, dtype, range or size, or with pixels that are NaN or infinite."""


class ImageFileError(InvalidImageError):
    """A file that is not one still image of an allowed size, or that cannot be read or written."""


class ConfigError(MaskRestoreError, ValueError):
    """A setting outside its documented range, or settings that contradict each other."""


class UnknownNameError(ConfigError):
    """A name that is not in a registry; the message lists the known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class ClassifierError(MaskRestoreError, RuntimeError):
    """The black-box classifier cannot be loaded, or failed."""


class ClassifierOutputError(ClassifierError):
    """The classifier's answer is not one integer label per image."""


class QueryBudgetError(ClassifierError):
    """The next query would exceed the budget of queries; it was not sent."""


class RetryLater(ClassifierError):  # noqa: N818 - a request, which functions of users raise
    """The classifier is busy or limits its rate: the same query may be answered later.

    A function raises it with the seconds to wait, or with none if it does not know. maskrestore waits and asks again;
    it keeps what was answered before.
    """

    def __init__(self, seconds: float | None = None, reason: str = "") -> None:
        super().__init__(reason or ("ask again later" if seconds is None else f"ask again in {seconds:g} s"))
        self.seconds = seconds
        self.reason = reason

    def __reduce__(self) -> tuple[type[RetryLater], tuple[float | None, str]]:
        return type(self), (self.seconds, self.reason)


class ClassifierStoppedError(ClassifierError):
    """The classifier failed too often in a row, or asked to wait for too long; no further query was sent."""


class PurificationInterruptedError(ClassifierError):
    """The classifier raised an exception during a batch.

    ``partial`` holds the results of the images that were finished, the first ``len(partial.labels)`` of the batch, or
    ``None`` if no image was finished. ``__cause__`` is the classifier's own exception.
    """

    def __init__(self, message: str, partial: Purification | None) -> None:
        super().__init__(message)
        self.partial = partial


class CheckpointError(MaskRestoreError, RuntimeError):
    """Weights that are missing, unsafe to load, truncated, or do not fit the architecture."""


class DataError(MaskRestoreError, RuntimeError):
    """A data set that is missing or not laid out as expected."""


class MissingDependencyError(MaskRestoreError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this; install it with: pip install 'maskrestore[{extra}]'")
