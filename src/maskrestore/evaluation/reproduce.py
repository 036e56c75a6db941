"""Run the cells of a grid: each record is made once, by one of several processes; failures are kept and passed over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from maskrestore.attacks import Attack
from maskrestore.data.dataset import ImageDataset
from maskrestore.evaluation.claims import claim
from maskrestore.evaluation.defenses import DefenseUnderTest, VictimUnderTest
from maskrestore.evaluation.detection import DetectorUnderTest, detect
from maskrestore.evaluation.environment import current_environment
from maskrestore.evaluation.grid import Cell
from maskrestore.evaluation.records import read_record, write_text_atomically
from maskrestore.evaluation.run import EvaluationProgress, evaluate
from maskrestore.victims import VictimConfig

__all__ = ["Laboratory", "Outcome", "State", "failure_path", "run_cells"]

State = Literal["kept", "measured", "failed", "missing", "elsewhere"]
"""kept: there was a record; missing: the victim is not trained; elsewhere: another process is at it."""

_WAIT = 5.0
"""Seconds before another look at a victim that another process trains."""


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """Where the things come from that a cell is made of."""

    dataset: Callable[[str], ImageDataset]
    """The test split of a data set."""
    attack: Callable[[Cell], Attack | None]
    victim: Callable[[VictimConfig], VictimUnderTest | None]
    """``None`` for one that is not trained."""
    victim_file: Callable[[VictimConfig], Path]
    """Where the victim is kept: it is claimed there while it is trained."""
    defense: Callable[[Cell], DefenseUnderTest]
    detector: Callable[[Cell], DetectorUnderTest]
    train: Callable[[VictimConfig], object] | None = None
    """Trains a victim and keeps it; ``None`` leaves cells without a victim out."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    state: State
    message: str = ""
    """The error of a failed one."""


class _BusyError(Exception):
    """Another process trains the victim."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    laboratory: Laboratory,
    *,
    retry: bool = False,
    report: Callable[[Outcome], None] = lambda _: None,
    progress: Callable[[Cell, EvaluationProgress], None] = lambda _, __: None,
) -> list[Outcome]:
    """Measure the cells that ``folder`` has no record of. Several processes may do so at once.

    A cell that raises is noted in a ``.failed.json`` beside its record, and the others go on; it is tried again with
    ``retry`` only. An interrupted cell goes on where it stopped. Returns an outcome for each cell.
    """
    run = _Run(folder=folder, laboratory=laboratory, retry=retry, progress=progress)
    outcomes: list[Outcome] = []
    pending = list(cells)
    while pending:
        postponed = []
        for cell in pending:
            try:
                outcome = run.cell(cell)
            except _BusyError:
                postponed.append(cell)
                continue
            outcomes.append(outcome)
            report(outcome)
        if postponed and len(postponed) == len(pending):
            time.sleep(_WAIT)
        pending = postponed
    return outcomes


def failure_path(record: Path) -> Path:
    """Where the error of a cell is kept, beside its record."""
    return record.with_suffix(".failed.json")


@dataclass(kw_only=True)
class _Run:
    """One process's way through the cells."""

    folder: Path
    laboratory: Laboratory
    retry: bool
    progress: Callable[[Cell, EvaluationProgress], None]
    untrainable: dict[str, str] = field(default_factory=dict)
    """Victims whose training failed in this run, with the error: it is not tried for every cell."""
    loaded: tuple[str, VictimUnderTest] | None = None
    """The last victim by its digest: the next cell's, as a rule."""

    def cell(self, cell: Cell) -> Outcome:
        """Measure one cell unless it is done or another process is at it. Raises _BusyError."""
        path = self.folder / cell.path
        failure = failure_path(path)
        if path.exists() and not self._stale(cell, path):
            return Outcome(cell=cell, state="kept")
        if failure.exists() and not self.retry:
            return Outcome(cell=cell, state="failed", message=_message(failure))
        with claim(path.with_suffix(".claim")) as ours:
            if path.exists() and not self._stale(cell, path):  # somebody has finished it in the meantime
                return Outcome(cell=cell, state="kept")
            return self._claimed(cell, path) if ours else Outcome(cell=cell, state="elsewhere")

    def _stale(self, cell: Cell, path: Path) -> bool:
        """Whether a record was made with other weights of the masked autoencoder than there are now."""
        if cell.variant.detects:
            return False
        weights = read_record(path).defense.restorer_weights
        return weights is not None and weights != self.laboratory.defense(cell).entry.restorer_weights

    def _claimed(self, cell: Cell, path: Path) -> Outcome:
        """Measure a cell that is ours to measure. Raises _BusyError."""
        failure = failure_path(path)
        try:
            victim = self._victim(cell.victim)
            if victim is None:
                return Outcome(cell=cell, state="missing")
            self._measure(cell, victim, path)
        except _BusyError:
            raise
        except Exception as error:  # whatever it is, the other cells go on
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            _write_failure(failure, cell, message)
            return Outcome(cell=cell, state="failed", message=message)
        failure.unlink(missing_ok=True)
        return Outcome(cell=cell, state="measured")

    def _measure(self, cell: Cell, victim: VictimUnderTest, path: Path) -> None:
        lab = self.laboratory
        dataset, attack = lab.dataset(cell.case.dataset), lab.attack(cell)
        clean, triggered = _counts(cell, dataset, attack)
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
            device=lab.device,
            progress=lambda state: self.progress(cell, state),
        )

    def _victim(self, config: VictimConfig) -> VictimUnderTest | None:
        """Load the victim, train it if need be and allowed. Raises _BusyError and whatever training raises."""
        digest = config.digest()
        if self.loaded is not None and self.loaded[0] == digest:
            return self.loaded[1]
        victim = self.laboratory.victim(config)
        if victim is None and self.laboratory.train is not None:
            self._train(config)
            victim = self.laboratory.victim(config)
        if victim is not None:
            self.loaded = (digest, victim)
        return victim

    def _train(self, config: VictimConfig) -> None:
        lab = self.laboratory
        assert lab.train is not None
        # The clean victim that others start from first: it is everybody's, so it has a claim of its own.
        for one in [config.clean(), config] if config.fine_tuned else [config]:
            digest = one.digest()
            if digest in self.untrainable:
                raise RuntimeError(self.untrainable[digest])
            with claim(lab.victim_file(one).with_suffix(".claim")) as ours:
                if not ours:
                    raise _BusyError
                try:
                    lab.train(one)  # returns at once when it is there
                except Exception as error:
                    self.untrainable[digest] = f"training the victim failed: {type(error).__name__}: {error}"
                    raise


def _counts(cell: Cell, dataset: ImageDataset, attack: Attack | None) -> tuple[int, int]:
    """How many clean and triggered images a cell takes: as many as asked for, or all there are."""
    clean = len(dataset.labels)
    triggered = 1 if attack is None else int(attack.eligible(dataset.labels).sum())
    wanted = cell.count
    return (clean, triggered) if wanted is None else (min(wanted, clean), min(wanted, triggered))


def _write_failure(path: Path, cell: Cell, message: str) -> None:
    note = {
        "cell": cell.name,
        "error": message,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": current_environment().commit,
    }
    write_text_atomically(path, json.dumps(note, indent=2) + "\n")


def _message(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} is not readable"
