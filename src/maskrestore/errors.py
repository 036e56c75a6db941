"""Every error that maskrestore raises on purpose.

::

    MaskRestoreError
    ├── InvalidImageError (ValueError)        pixels, rank, dtype or batch that cannot be purified
    │   └── ImageFileError                    a file that cannot be decoded (truncated, huge, animated, ...)
    ├── ConfigError (ValueError)              a setting outside its range
    │   └── UnknownNameError                  a name that no registry holds; lists the known ones
    ├── ClassifierError (RuntimeError)        the black box failed
    │   ├── ClassifierOutputError             it did not answer with one integer label per image
    │   ├── QueryBudgetError                  the next query would exceed the budget
    │   └── PurificationInterruptedError      it raised half-way; ``partial`` holds what was finished
    ├── CheckpointError (RuntimeError)        weights that are unsafe, truncated or of the wrong shape
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
    "ConfigError",
    "DataError",
    "ImageFileError",
    "InvalidImageError",
    "MaskRestoreError",
    "MissingDependencyError",
    "PurificationInterruptedError",
    "QueryBudgetError",
    "UnknownNameError",
]


class MaskRestoreError(Exception):
    """Base of all errors below: catch this one to catch them all."""


class InvalidImageError(MaskRestoreError, ValueError):
    """Images of the wrong rank, dtype, range or size, or with NaN pixels."""


class ImageFileError(InvalidImageError):
    """A file that is not one still image of reasonable size."""


class ConfigError(MaskRestoreError, ValueError):
    """A setting outside its documented range."""


class UnknownNameError(ConfigError):
    """A name that is not in a registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class ClassifierError(MaskRestoreError, RuntimeError):
    """The black-box classifier could not be used."""


class ClassifierOutputError(ClassifierError):
    """The classifier's answer is not one integer label per image."""


class QueryBudgetError(ClassifierError):
    """Answering would take more queries than the budget allows."""


class PurificationInterruptedError(ClassifierError):
    """The classifier raised after some images were finished.

    ``partial`` holds the results of the first ``len(partial.labels)`` images, or ``None`` when there are none.
    The classifier's own exception is the ``__cause__``.
    """

    def __init__(self, message: str, partial: Purification | None) -> None:
        super().__init__(message)
        self.partial = partial


class CheckpointError(MaskRestoreError, RuntimeError):
    """Weights that are unsafe to load, truncated, or do not fit the architecture."""


class DataError(MaskRestoreError, RuntimeError):
    """A data set that is missing or not laid out as expected."""


class MissingDependencyError(MaskRestoreError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this; install it with: pip install 'maskrestore[{extra}]'")
