"""Run the cells of a grid: each record is made once, by one of several processes; failures are kept and passed over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.executor import (
    Answer,
    Bench,
    Laboratory,
    Outcome,
    Task,
    failure_path,
    forget_failure,
    note_failure,
)
from maskrestore.lab.runner.pool import Crew
from maskrestore.lab.runner.scheduler import WAIT, Agenda
from maskrestore.lab.victims import VictimConfig

__all__ = ["run_cells", "run_cells_in_processes"]

Report = Callable[[Outcome], None]
"""Is told what became of each cell, and of victims without cells that could not be trained."""

Progress = Callable[[int, str], None]
"""Is told how far each worker is: its number, counted from 0, and a text, which is empty when it is done."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    laboratory: Laboratory,
    *,
    victims: Sequence[VictimConfig] = (),
    retry: bool = False,
    report: Report = lambda _: None,
    progress: Progress = lambda _, __: None,
) -> list[Outcome]:
    """Measure the cells that ``folder`` has no record of. Several programs may do so at once.

    Cells whose victims are ready come first, and the ones of a victim together; the other victims are trained if the
    laboratory trains at all, and those of ``victims``, which need not have cells. A cell that raises is noted in a
    ``.failed.json`` beside its record, and the others go on; it is tried again with ``retry`` only. An interrupted cell
    goes on where it stopped. Returns an outcome for each cell.
    """
    run = _Run(cells, Bench(folder=folder, laboratory=laboratory), victims, retry=retry, report=report)
    while run.agenda:
        task = run.agenda.next(0)
        if task is None:
            time.sleep(WAIT)
        else:
            run.take(task, run.bench.do(task, lambda text: progress(0, text)))
    return run.outcomes()


def run_cells_in_processes(
    cells: Sequence[Cell],
    folder: Path,
    make_laboratory: Callable[[], Laboratory],
    *,
    jobs: int,
    victims: Sequence[VictimConfig] = (),
    retry: bool = False,
    report: Report = lambda _: None,
    progress: Progress = lambda _, __: None,
    start_method: str = "spawn",
) -> list[Outcome]:
    """The same as ``run_cells`` by ``jobs`` processes, which share the threads of this one.

    make_laboratory: is pickled, and called in each process. A process that dies (killed, out of memory) fails its task
    only; another one takes its place. When this function is left, by an exception too, all processes have ended.
    start_method: as of ``multiprocessing``.
    """
    run = _Run(cells, Bench(folder=folder, laboratory=make_laboratory()), victims, retry=retry, report=report)
    with Crew(jobs, folder, make_laboratory, start_method) as crew:
        while run.agenda or crew.working:
            for worker in crew.idle:
                if (task := run.agenda.next(worker)) is not None:
                    crew.give(worker, task)
            for worker, task, message in crew.wait(WAIT):
                if isinstance(message, Answer):
                    run.take(task, message)
                progress(worker, "" if isinstance(message, Answer) else message)
    return run.outcomes()


class _Run:
    """Cells on their way: what is left, and what became of the others."""

    def __init__(
        self, cells: Sequence[Cell], bench: Bench, victims: Sequence[VictimConfig], *, retry: bool, report: Report
    ) -> None:
        self.bench, self._cells, self._report = bench, cells, report
        self._outcomes: dict[str, Outcome] = {}
        left = []
        for cell in cells:
            failure = failure_path(bench.folder / cell.path)
            if bench.kept(cell):
                self._settle(Outcome(task=cell, state="kept"))
            elif failure.exists() and not retry:
                self._settle(Outcome(task=cell, state="failed", message=_message(failure)))
            else:
                left.append(cell)
        self.agenda = Agenda(left, bench.laboratory, victims)

    def take(self, task: Task, answer: Answer) -> None:
        """Note what became of a task."""
        if isinstance(task, VictimConfig):
            self._take_training(task, answer)
            return
        if answer.state == "failed":
            note_failure(self.bench.folder, task, answer.message)
        elif answer.state == "measured":
            forget_failure(self.bench.folder, task)
        self._settle(Outcome(task=task, state=answer.state, message=answer.message))

    def outcomes(self) -> list[Outcome]:
        """In the order of the cells."""
        return [self._outcomes[cell.path] for cell in self._cells]

    def _take_training(self, victim: VictimConfig, answer: Answer) -> None:
        if answer.state == "measured":
            self.agenda.trained(victim)
        elif answer.state == "elsewhere":
            self.agenda.busy(victim)
        else:
            message = f"training {victim.dataset} {victim.attack or 'clean'} failed: {answer.message}"
            lost = self.agenda.lost(victim)
            for cell in lost:
                self.take(cell, Answer(state="failed", message=message))
            if not lost:
                self._report(Outcome(task=victim, state="failed", message=answer.message))

    def _settle(self, outcome: Outcome) -> None:
        self._outcomes[outcome.cell.path] = outcome
        self._report(outcome)


def _message(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} is not readable"
