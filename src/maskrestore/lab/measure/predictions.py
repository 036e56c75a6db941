"""Predictions of an evaluation, written to disk chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.jobs.partial_results import PartialResults
from maskrestore.lab.measure.suspicions import Suspected
from maskrestore.types import Purification, doubt_of

__all__ = ["Prediction", "PredictionLog"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The result for one image."""

    original: int
    """The victim's label of the original image."""
    label: int
    """The label with the defense."""
    queries: int
    restored: float | None
    """Share of restored tokens, in [0, 1]; ``None`` for defenses without tokens."""
    suspicion: float | None = None
    """In [0, 1]; ``None`` for defenses without one."""


class PredictionLog(PartialResults):
    """Predictions by part (``clean`` or ``triggered``) and index in the data set."""

    def __init__(self, path: Path | None, key: str) -> None:
        """Arguments as in ``PartialResults``."""
        self._rows: dict[tuple[str, int], Prediction] = {}
        self.passes: int | None = 0
        """Passes through the defense's generator; ``None`` when they are unknown for a chunk."""
        super().__init__(path, key)

    def pending(self, part: str, indices: list[int]) -> list[int]:
        """Return those of ``indices`` without a prediction, in order."""
        return [index for index in indices if (part, index) not in self._rows]

    def add(
        self, part: str, indices: list[int], result: Purification, seconds: float, passes: int | None = None
    ) -> None:
        """Add the result of the images ``indices``, which took ``seconds`` and ``passes`` through the generator."""
        restored = None if result.hidden is None else result.hidden.flatten(1).float().mean(dim=1).tolist()
        line = {
            "part": part,
            "indices": indices,
            "original": result.original_labels.tolist(),
            "label": result.labels.tolist(),
            "queries": result.queries.tolist(),
            "restored": restored,
            "suspicion": None if result.suspicion is None else result.suspicion.tolist(),
            "seconds": seconds,
            "passes": passes,
        }
        self._add(line)

    def original_labels(self, part: str, indices: list[int]) -> Tensor:
        """Return ``(N,)`` int64: the victim's labels of the original images."""
        return torch.tensor([self._rows[part, index].original for index in indices], dtype=torch.int64)

    def labels(self, part: str, indices: list[int]) -> Tensor:
        """Return ``(N,)`` int64: the labels with the defense."""
        return torch.tensor([self._rows[part, index].label for index in indices], dtype=torch.int64)

    def queries(self, part: str, indices: list[int]) -> list[int]:
        """Return the number of queries for each image."""
        return [self._rows[part, index].queries for index in indices]

    def suspected(self, part: str, indices: list[int], labels: Tensor) -> Suspected | None:
        """The suspicion of the images; ``None`` if the defense has none. labels: ``(N,)``, the true ones."""
        known = [one for index in indices if (one := self._rows[part, index].suspicion) is not None]
        if len(known) < len(indices):
            return None
        suspicion, answers = torch.tensor(known), self.labels(part, indices)
        doubt = doubt_of(suspicion, kept=answers == self.original_labels(part, indices))
        return Suspected(suspicion=suspicion, doubt=doubt, right=answers == labels)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def _take(self, line: dict[str, Any]) -> None:
        indices, queries = line["indices"], line["queries"]
        optional = (line[name] or [None] * len(indices) for name in ("restored", "suspicion"))
        columns = zip(indices, line["original"], line["label"], queries, *optional, strict=True)
        rows = {
            (line["part"], index): Prediction(
                original=original, label=label, queries=count, restored=share, suspicion=suspicion
            )
            for index, original, label, count, share, suspicion in columns
        }
        self.seconds += line["seconds"]
        passes = line.get("passes")
        self.passes = None if passes is None or self.passes is None else self.passes + passes
        self._rows.update(rows)
