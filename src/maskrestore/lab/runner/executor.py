"""Where the cells of a grid are measured: what they are made of, and what becomes of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from maskrestore.errors import MaskRestoreError
from maskrestore.lab.attacks import Attack
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.measure.defenses import DefenseUnderTest, VictimUnderTest
from maskrestore.lab.measure.detection import DetectorUnderTest, detect
from maskrestore.lab.measure.records import Record, read_record
from maskrestore.lab.measure.restoration_cache import RecallingClassifier
from maskrestore.lab.measure.run import EvaluationProgress, evaluate
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.locks import claim
from maskrestore.lab.victims import TrainingProgress, VictimConfig
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.files import write_text_atomically

__all__ = [
    "Answer",
    "Bench",
    "Laboratory",
    "Note",
    "Outcome",
    "State",
    "Task",
    "Trainer",
    "failure_path",
    "forget_failure",
    "note_failure",
]

State = Literal["kept", "measured", "failed", "missing", "elsewhere"]
"""kept: there was a record; missing: the victim is not trained; elsewhere: another process is at it.

A victim that is trained now counts as measured, because training ends with that.
"""

Task = Cell | VictimConfig
"""A cell to measure, or a victim to train."""

Note = Callable[[str], None]
"""Is told how far a task is."""

Trainer = Callable[[VictimConfig, Callable[[TrainingProgress], None]], object]
"""Trains a victim unless it is there already, keeps it, and tells how far it is."""


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """Where the things come from that a cell is made of."""

    dataset: Callable[[str], ImageDataset]
    """The test split of a data set."""
    attack: Callable[[Cell], Attack | None]
    victim: Callable[[VictimConfig], VictimUnderTest | None]
    """``None`` for one that is not trained."""
    trained: Callable[[VictimConfig], bool]
    """Whether there is such a victim, without loading it."""
    victim_file: Callable[[VictimConfig], Path]
    """Where the victim is kept: it is claimed there while it is trained."""
    defense: Callable[[Cell], DefenseUnderTest]
    detector: Callable[[Cell], DetectorUnderTest]
    forget: Callable[[], None] = lambda: None
    """Is called when another victim is loaded: what points of a curve shared is of no use any more."""
    train: Trainer | None = None
    """``None`` leaves cells without a victim out."""
    known: Mapping[str, Record] = field(default_factory=dict)
    """Records of ``evaluate`` by their digest: a cell that is one of them is not measured again."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell, or of the training of a victim that failed and was not for a cell."""

    task: Task
    state: State
    message: str = ""
    """The error of a failed one."""

    @property
    def cell(self) -> Cell:
        """The cell; only for one."""
        assert isinstance(self.task, Cell)
        return self.task

    @property
    def name(self) -> str:
        """Of the cell, or what was trained."""
        task = self.task
        return task.name if isinstance(task, Cell) else f"training {task.dataset} {task.attack or 'clean'}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a task: of a cell its state, or likewise of a victim."""

    state: State
    message: str = ""


@dataclass(kw_only=True)
class Bench:
    """One process's place of work, with the victim that it used last at hand."""

    folder: Path
    """Of the records."""
    laboratory: Laboratory
    loaded: tuple[tuple[str, bool], VictimUnderTest] | None = field(default=None, init=False)
    """The last victim, the next cell's as a rule, by its digest and whether it recalls its answers."""

    def kept(self, cell: Cell) -> bool:
        """Whether there is a record of this cell that holds."""
        path = self.folder / cell.path
        return path.exists() and not self._stale(cell, path)

    def do(self, task: Task, note: Note) -> Answer:
        """Measure a cell or train a victim, unless another process is at it; an error becomes a failed answer."""
        try:
            return self._measured(task, note) if isinstance(task, Cell) else self._trained(task, note)
        except Exception as error:  # whatever it is, the other tasks go on
            return Answer(state="failed", message=f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _stale(self, cell: Cell, path: Path) -> bool:
        """Whether a record was made with other weights of the masked autoencoder than there are now."""
        if cell.variant.detects or cell.diffuses:
            return False  # the weights of a diffusion model are part of the cell's name
        weights = read_record(path).defense.restorer_weights
        if weights is None:
            return False
        try:
            return weights != self.laboratory.defense(cell).entry.restorer_weights
        except MaskRestoreError:
            return False  # there are none now, so the record is the best there is

    def _measured(self, cell: Cell, note: Note) -> Answer:
        with claim((self.folder / cell.path).with_suffix(".claim")) as ours:
            if self.kept(cell):  # somebody has finished it in the meantime
                return Answer(state="kept")
            if not ours:
                return Answer(state="elsewhere")
            victim = self._victim(cell.victim, recalls=cell.scale.recalls)
            if victim is None:
                return Answer(state="missing")
            self._measure(cell, victim, note)
            return Answer(state="measured")

    def _measure(self, cell: Cell, victim: VictimUnderTest, note: Note) -> None:
        lab, path = self.laboratory, self.folder / cell.path
        dataset, attack = lab.dataset(cell.case.dataset), lab.attack(cell)
        clean, triggered = _counts(cell, dataset, attack)

        def show(state: EvaluationProgress) -> None:
            note(f"{cell.case.label}, {cell.variant.defense}: {state.done}/{state.total} images")

        if cell.variant.detects:
            assert attack is not None, "a detector needs triggered images"
            detect(
                dataset,
                attack,
                victim,
                lab.detector(cell),
                clean_count=clean,
                triggered_count=triggered,
                seed=cell.repeat,
                out=path,
                device=lab.device,
                progress=show,
            )
            return
        evaluate(
            dataset,
            attack,
            victim,
            lab.defense(cell),
            clean_count=clean,
            triggered_count=triggered,
            seed=cell.repeat,
            out=path.parent,
            name=path.stem,
            known=lab.known,
            device=lab.device,
            progress=show,
        )

    def _victim(self, config: VictimConfig, *, recalls: bool) -> VictimUnderTest | None:
        name = (config.digest(), recalls)
        if self.loaded is None or self.loaded[0] != name:
            self.laboratory.forget()
            self.loaded, victim = None, self.laboratory.victim(config)
            if victim is None:
                return None
            if recalls:
                victim = dataclasses.replace(victim, classifier=RecallingClassifier(victim.classifier))
            self.loaded = (name, victim)
        return self.loaded[1]

    def _trained(self, config: VictimConfig, note: Note) -> Answer:
        lab = self.laboratory
        assert lab.train is not None
        name = f"training {config.dataset} {config.attack or 'clean'}"

        def show(state: TrainingProgress) -> None:
            note(f"{name}: {100 * state.step / state.steps:.0f} %, {state.images_per_second:.0f} images/s")

        with claim(lab.victim_file(config).with_suffix(".claim")) as ours:
            if not ours:
                return Answer(state="elsewhere")
            note(name)
            lab.train(config, show)
        return Answer(state="measured")


def failure_path(record: Path) -> Path:
    """Where the error of a cell is kept, beside its record."""
    return record.with_suffix(".failed.json")


def note_failure(folder: Path, cell: Cell, message: str) -> None:
    """Keep the error of a cell."""
    note = {
        "cell": cell.name,
        "error": message,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": current_environment().commit,
    }
    write_text_atomically(failure_path(folder / cell.path), json.dumps(note, indent=2) + "\n")


def forget_failure(folder: Path, cell: Cell) -> None:
    """Delete the error of a cell that has been measured."""
    failure_path(folder / cell.path).unlink(missing_ok=True)


def _counts(cell: Cell, dataset: ImageDataset, attack: Attack | None) -> tuple[int, int]:
    """How many clean and triggered images a cell takes: as many as asked for, or all there are."""
    clean = len(dataset.labels)
    triggered = 1 if attack is None else int(attack.eligible(dataset.labels).sum())
    wanted = cell.count
    return (clean, triggered) if wanted is None else (min(wanted, clean), min(wanted, triggered))
