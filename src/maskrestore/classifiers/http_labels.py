"""The label in what a server answers about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.answers import checked_labels
from maskrestore.classifiers.class_names import ClassNames
from maskrestore.classifiers.model_answers import ModelAnswers
from maskrestore.errors import ClassifierOutputError

__all__ = ["LabelReader"]


class LabelReader:
    """Reads labels, and numbers those that are names."""

    def __init__(self, threshold: float | None, classes: Sequence[str] | None) -> None:
        """Arguments as for :class:`~maskrestore.classifiers.http.HttpClassifier`."""
        self._names = ClassNames(classes)
        self._read = ModelAnswers(None, threshold, classes)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their labels, those that are known so far; None for numbers."""
        return self._names.names or self._read.classes

    def keep_classes(self, path: Path, *, shared: bool) -> None:
        """As :meth:`~maskrestore.classifiers.http.HttpClassifier.keep_classes`."""
        self._names.keep(path, shared=shared)

    def fix_classes(self) -> None:
        """As :meth:`~maskrestore.classifiers.http.HttpClassifier.fix_classes`."""
        self._names.close()

    def __call__(self, value: Any, rows: int = 1) -> Tensor:
        """The label ``(1,)`` of an answer: a number, a name, scores, or a map of scores.

        rows: of a tensor, whose first one is read. Raises ClassifierOutputError if there is no label.
        """
        if isinstance(value, str):
            return torch.tensor([self._names.number(value)])
        if isinstance(value, np.ndarray) and value.dtype == object:
            names = value.ravel().tolist()
            if not names or (len(names) > 1 and len({*names}) > 1):
                raise ClassifierOutputError(f"expected the name of one class, got {len(names)} texts: {names[:3]}")
            return torch.tensor([self._names.number(names[0])])
        if isinstance(value, bool | int):
            value = [int(value)]
        elif isinstance(value, float):
            value = np.array([value])
        elif isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
            value = np.array([value], dtype=None if len(value) == 1 else np.float64)
        elif isinstance(value, np.ndarray):
            return checked_labels(*self._read(value, rows))[:1]
        return checked_labels(*self._read(value, 1))
