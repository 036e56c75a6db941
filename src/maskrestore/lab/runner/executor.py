"""Measure cells and train victims, one task at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from maskrestore.errors import MaskRestoreError
from maskrestore.lab.attacks import Attack
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.measure.defenses import VictimUnderTest
from maskrestore.lab.measure.detection import DetectionRecord, detect
from maskrestore.lab.measure.records import Record
from maskrestore.lab.measure.restoration_cache import CachedClassifier
from maskrestore.lab.measure.run import EvaluationProgress, evaluate
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.victims import TrainingProgress, VictimConfig
from maskrestore.runtime.locks import try_lock

__all__ = [
    "Answer",
    "Executor",
    "Note",
    "Outcome",
    "State",
    "Task",
]

State = Literal["kept", "measured", "failed", "missing", "elsewhere"]
"""State of a task.

kept: a record exists. measured: the cell was measured, or the victim was trained. failed: there was an error. missing:
the victim is not trained. elsewhere: another process works on the task.
"""

Task = Cell | VictimConfig
"""A cell to measure, or a victim to train."""

Note = Callable[[str], None]
"""Called with a text on the progress of a task."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The final state of a cell, or the failed training of a victim that no cell needs."""

    task: Task
    state: State
    message: str = ""
    """The error message if the state is "failed"."""

    @property
    def cell(self) -> Cell:
        """The task, which must be a cell."""
        assert isinstance(self.task, Cell)
        return self.task

    @property
    def name(self) -> str:
        """Name of the cell or of the training."""
        task = self.task
        return task.name if isinstance(task, Cell) else f"training {task.dataset} {task.attack or 'clean'}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The state of a task, as a worker reports it."""

    state: State
    message: str = ""
    """The error message if the state is "failed"."""


@dataclass(kw_only=True)
class Executor:
    """Measures cells and trains victims, one task after the other, in one process. It keeps the last victim loaded."""

    results: ResultsFolder
    resources: Resources
    loaded: tuple[tuple[str, bool], VictimUnderTest] | None = field(default=None, init=False)
    """The last victim, which the next cell often needs as well. Its key: the digest, and whether labels are cached."""

    def kept(self, cell: Cell) -> bool:
        """Return whether a record of this cell exists and is up to date. Raises DataError if the file is broken."""
        record = self.results.record_of(cell)
        return record is not None and not self._stale(cell, record)

    def do(self, task: Task, note: Note) -> Answer:
        """Measure a cell or train a victim, unless another process does. An error gives an answer "failed"."""
        try:
            return self._measured(task, note) if isinstance(task, Cell) else self._trained(task, note)
        except Exception as error:  # any error fails this task only; the other tasks continue
            return Answer(state="failed", message=f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _stale(self, cell: Cell, record: Record | DetectionRecord) -> bool:
        """Return whether the weights of the masked autoencoder have changed since the record was made."""
        if isinstance(record, DetectionRecord) or cell.diffuses:
            return False  # a cell's name contains the digest of its diffusion model
        weights = record.defense.restorer_weights
        if weights is None:
            return False
        try:
            return weights != self.resources.defense(cell).entry.restorer_weights
        except MaskRestoreError:
            return False  # the weights are not available, so the record is kept

    def _measured(self, cell: Cell, note: Note) -> Answer:
        with self.results.lock(cell) as ours:
            if self.kept(cell):  # another process has measured it in the meantime
                return Answer(state="kept")
            if not ours:
                return Answer(state="elsewhere")
            victim = self._victim(cell.victim, shares_restorations=cell.scale.shares_restorations)
            if victim is None:
                return Answer(state="missing")
            self._measure(cell, victim, note)
            return Answer(state="measured")

    def _measure(self, cell: Cell, victim: VictimUnderTest, note: Note) -> None:
        resources = self.resources
        dataset, attack = resources.dataset(cell.case.dataset), resources.attack(cell)
        clean, triggered = _counts(cell, dataset, attack)

        def show(state: EvaluationProgress) -> None:
            note(f"{cell.case.label}, {cell.variant.defense}: {state.done}/{state.total} images")

        if cell.variant.detects:
            assert attack is not None, "a detector needs triggered images"
            detect(
                dataset,
                attack,
                victim,
                resources.detector(cell),
                clean_count=clean,
                triggered_count=triggered,
                seed=cell.repeat,
                out=self.results.detections,
                name=cell.name,
                device=resources.device,
                progress=show,
            )
            return
        evaluate(
            dataset,
            attack,
            victim,
            resources.defense(cell),
            clean_count=clean,
            triggered_count=triggered,
            seed=cell.repeat,
            out=self.results.cells,
            name=cell.name,
            known=resources.known,
            device=resources.device,
            progress=show,
        )

    def _victim(self, config: VictimConfig, *, shares_restorations: bool) -> VictimUnderTest | None:
        name = (config.digest(), shares_restorations)
        if self.loaded is None or self.loaded[0] != name:
            self.resources.forget()
            self.loaded, victim = None, self.resources.victim(config)
            if victim is None:
                return None
            if shares_restorations:
                victim = dataclasses.replace(victim, classifier=CachedClassifier(victim.classifier))
            self.loaded = (name, victim)
        return self.loaded[1]

    def _trained(self, config: VictimConfig, note: Note) -> Answer:
        resources = self.resources
        assert resources.train is not None
        name = f"training {config.dataset} {config.attack or 'clean'}"

        def show(state: TrainingProgress) -> None:
            note(f"{name}: {100 * state.step / state.steps:.0f} %, {state.images_per_second:.0f} images/s")

        with try_lock(resources.victim_file(config).with_suffix(".lock")) as ours:
            if not ours:
                return Answer(state="elsewhere")
            note(name)
            resources.train(config, show)
        return Answer(state="measured")


def _counts(cell: Cell, dataset: ImageDataset, attack: Attack | None) -> tuple[int, int]:
    """Return the numbers of clean and triggered images of a cell: the requested number, or all if there are fewer."""
    clean = len(dataset.labels)
    triggered = 1 if attack is None else int(attack.eligible(dataset.labels).sum())
    wanted = cell.count
    return (clean, triggered) if wanted is None else (min(wanted, clean), min(wanted, triggered))
