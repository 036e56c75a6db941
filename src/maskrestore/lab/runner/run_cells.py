"""Run cells in one or several processes: each is measured once; failures are noted and do not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.executor import Answer, Executor, Outcome, Task
from maskrestore.lab.runner.pool import Pool
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.scheduler import WAIT, Scheduler
from maskrestore.lab.victims import VictimConfig

__all__ = ["run_cells", "run_cells_in_processes"]

Report = Callable[[Outcome], None]
"""Receives the outcome of each cell, and of victims without cells that could not be trained."""

Progress = Callable[[int, str], None]
"""Receives the progress of each worker: its number from 0, and a text, which is empty when the task is done."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    resources: Resources,
    *,
    victims: Sequence[VictimConfig] = (),
    retry: bool = False,
    report: Report = lambda _: None,
    progress: Progress = lambda _, __: None,
) -> list[Outcome]:
    """Measure the cells that ``folder`` has no record of. Several programs may do so at once.

    Cells whose victims are ready come first, and the ones of a victim together; the other victims are trained if
    ``resources`` can train, and so are ``victims``, which need not have cells. The error of a cell that raises is kept
    in ``failures.jsonl``, and the others go on; it is tried again only with ``retry``. An interrupted cell goes on
    where it stopped. Returns an outcome for each cell.
    """
    run = _Run(cells, Executor(results=ResultsFolder(folder), resources=resources), victims, retry=retry, report=report)
    while run.scheduler:
        task = run.scheduler.next(0)
        if task is None:
            time.sleep(WAIT)
        else:
            run.take(task, run.executor.do(task, lambda text: progress(0, text)))
    return run.outcomes()


def run_cells_in_processes(
    cells: Sequence[Cell],
    folder: Path,
    make_resources: Callable[[], Resources],
    *,
    jobs: int,
    victims: Sequence[VictimConfig] = (),
    retry: bool = False,
    report: Report = lambda _: None,
    progress: Progress = lambda _, __: None,
    start_method: str = "spawn",
) -> list[Outcome]:
    """The same as ``run_cells`` by ``jobs`` processes, which share the threads of this one.

    make_resources: is pickled, and called in each process. A process that dies (killed, out of memory) fails its task
    only; another one takes its place. When this function is left, by an exception too, all processes have ended.
    start_method: as of ``multiprocessing``.
    """
    run = _Run(
        cells, Executor(results=ResultsFolder(folder), resources=make_resources()), victims, retry=retry, report=report
    )
    with Pool(jobs, ResultsFolder(folder), make_resources, start_method) as pool:
        while run.scheduler or pool.working:
            for worker in pool.idle:
                if (task := run.scheduler.next(worker)) is not None:
                    pool.give(worker, task)
            for worker, task, message in pool.wait(WAIT):
                if isinstance(message, Answer):
                    run.take(task, message)
                progress(worker, "" if isinstance(message, Answer) else message)
    return run.outcomes()


class _Run:
    """The state of a run: cells that are left, and the outcomes of the others."""

    def __init__(
        self, cells: Sequence[Cell], executor: Executor, victims: Sequence[VictimConfig], *, retry: bool, report: Report
    ) -> None:
        self.executor, self._cells, self._report = executor, cells, report
        self._outcomes: dict[str, Outcome] = {}
        left = []
        for cell in cells:
            if executor.kept(cell):
                self._settle(Outcome(task=cell, state="kept"))
            elif not retry and (failure := executor.results.failures.get(cell.name)) is not None:
                self._settle(Outcome(task=cell, state="failed", message=failure.error))
            else:
                left.append(cell)
        self.scheduler = Scheduler(left, executor.resources, victims)

    def take(self, task: Task, answer: Answer) -> None:
        """Record the outcome of a task."""
        if isinstance(task, VictimConfig):
            self._take_training(task, answer)
            return
        if answer.state == "failed":
            self.executor.results.note_failure(task, answer.message)
        elif answer.state == "measured":
            self.executor.results.failures.remove(task.name)
        self._settle(Outcome(task=task, state=answer.state, message=answer.message))

    def outcomes(self) -> list[Outcome]:
        """In the order of the cells. Sorts the records."""
        self.executor.results.compact()
        return [self._outcomes[cell.name] for cell in self._cells]

    def _take_training(self, victim: VictimConfig, answer: Answer) -> None:
        if answer.state == "measured":
            self.scheduler.trained(victim)
        elif answer.state == "elsewhere":
            self.scheduler.busy(victim)
        else:
            message = f"training {victim.dataset} {victim.attack or 'clean'} failed: {answer.message}"
            lost = self.scheduler.lost(victim)
            for cell in lost:
                self.take(cell, Answer(state="failed", message=message))
            if not lost:
                self._report(Outcome(task=victim, state="failed", message=answer.message))

    def _settle(self, outcome: Outcome) -> None:
        self._outcomes[outcome.cell.name] = outcome
        self._report(outcome)
