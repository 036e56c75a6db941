"""Does one task at a time in one process: measures a cell, or trains a victim."""

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
"""kept: there was a record; missing: the victim is not trained; elsewhere: another process has the task.

A victim that has been trained counts as measured: training ends with a measurement.
"""

Task = Cell | VictimConfig
"""A cell to measure, or a victim to train."""

Note = Callable[[str], None]
"""Receives a text on the progress of a task."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a cell, or of the training of a victim that failed and that no cell needs."""

    task: Task
    state: State
    message: str = ""
    """The error of a failed task."""

    @property
    def cell(self) -> Cell:
        """The cell; only for the outcome of a cell."""
        assert isinstance(self.task, Cell)
        return self.task

    @property
    def name(self) -> str:
        """The name of the cell, or what was trained."""
        task = self.task
        return task.name if isinstance(task, Cell) else f"training {task.dataset} {task.attack or 'clean'}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outcome of a task as a worker reports it."""

    state: State
    message: str = ""


@dataclass(kw_only=True)
class Executor:
    """Measures cells and trains victims, one task after the other, in one process; keeps the last victim loaded."""

    results: ResultsFolder
    resources: Resources
    loaded: tuple[tuple[str, bool], VictimUnderTest] | None = field(default=None, init=False)
    """The last victim, which the next cell usually needs too, by its digest and whether its labels are cached."""

    def kept(self, cell: Cell) -> bool:
        """Whether there is a valid record of this cell."""
        record = self.results.record_of(cell)
        return record is not None and not self._stale(cell, record)

    def do(self, task: Task, note: Note) -> Answer:
        """Measure a cell or train a victim, unless another process does; an error becomes a failed answer."""
        try:
            return self._measured(task, note) if isinstance(task, Cell) else self._trained(task, note)
        except Exception as error:  # whatever it is, the other tasks continue
            return Answer(state="failed", message=f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _stale(self, cell: Cell, record: Record | DetectionRecord) -> bool:
        """Whether a record was made with other weights of the masked autoencoder than there are now."""
        if isinstance(record, DetectionRecord) or cell.diffuses:
            return False  # the weights of a diffusion model are part of the cell's name
        weights = record.defense.restorer_weights
        if weights is None:
            return False
        try:
            return weights != self.resources.defense(cell).entry.restorer_weights
        except MaskRestoreError:
            return False  # there are none now, so the record is the best there is

    def _measured(self, cell: Cell, note: Note) -> Answer:
        with self.results.lock(cell) as ours:
            if self.kept(cell):  # another process has finished it in the meantime
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
    """How many clean and triggered images a cell takes: as many as asked for, or all there are."""
    clean = len(dataset.labels)
    triggered = 1 if attack is None else int(attack.eligible(dataset.labels).sum())
    wanted = cell.count
    return (clean, triggered) if wanted is None else (min(wanted, clean), min(wanted, triggered))
