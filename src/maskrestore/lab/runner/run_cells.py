"""Measure cells: in one process, in several, or on a Ray cluster.

Each cell is measured once; failed cells are recorded and skipped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from maskrestore.distributed.cluster import Share
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.executor import Answer, Executor, Outcome, Task
from maskrestore.lab.runner.pool import Pool, WorkerPool
from maskrestore.lab.runner.ray_pool import RayPool
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.scheduler import WAIT, Scheduler
from maskrestore.lab.victims import VictimConfig

__all__ = ["run_cells", "run_cells_in_processes", "run_cells_on_ray"]

Report = Callable[[Outcome], None]
"""Called with the outcome of each cell, and of each failed training of a victim that no cell needs."""

Progress = Callable[[int, str], None]
"""Called with the progress of a worker: its number, from 0, and a text, which is empty when its task is done."""


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
    """Measure the cells without a record in ``folder``. Several programs may work on one folder at once.

    Cells with a trained victim come first, grouped by victim. If ``resources.train`` is given, missing victims are
    trained, as are ``victims``, whether a cell needs them or not. An error fails its cell only: it is written to
    ``failures.jsonl``, and the cell is tried again only with ``retry``. An interrupted cell resumes. Returns an outcome
    for each cell, in the order of ``cells``. Raises DataError if a file of records is broken.
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
    """Do the same as ``run_cells`` with ``jobs`` processes, which share the threads of this one.

    make_resources: pickled, and called in each process. start_method: see ``multiprocessing``. A process that dies
    (killed, out of memory) fails its current task only and is replaced. All processes have ended when this function
    returns or raises.
    """
    run = _Run(
        cells, Executor(results=ResultsFolder(folder), resources=make_resources()), victims, retry=retry, report=report
    )
    with Pool(jobs, ResultsFolder(folder), make_resources, start_method) as pool:
        run.work_with(pool, progress)
    return run.outcomes()


def run_cells_on_ray(
    cells: Sequence[Cell],
    folder: Path,
    make_resources: Callable[[], Resources],
    *,
    share: Share,
    victims: Sequence[VictimConfig] = (),
    retry: bool = False,
    report: Report = lambda _: None,
    progress: Progress = lambda _, __: None,
) -> list[Outcome]:
    """Do the same as ``run_cells`` with workers on the Ray cluster that this process is connected to.

    make_resources: pickled, and called in each worker and in this process. On several machines ``folder``, and the
    paths in it, must mean the same files everywhere; relative paths start at the folder of this process. share: how
    many workers at most, and what each of them reserves. A worker that dies (killed, out of memory, its node lost)
    fails its current task only and is replaced. Raises ConfigError if no worker can start.
    """
    run = _Run(
        cells, Executor(results=ResultsFolder(folder), resources=make_resources()), victims, retry=retry, report=report
    )
    needed = dataclasses.replace(share, workers=min(share.workers, run.scheduler.tasks))
    with RayPool(needed, ResultsFolder(folder), make_resources) as pool:
        run.work_with(pool, progress)
    return run.outcomes()


class _Run:
    """The state of a run: the scheduler of the remaining cells, and the outcomes of the others."""

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

    def work_with(self, pool: WorkerPool, progress: Progress) -> None:
        """Give the remaining tasks to the workers of a pool, until all are done."""
        while self.scheduler or pool.working:
            for worker in pool.idle:
                if (task := self.scheduler.next(worker)) is not None:
                    pool.give(worker, task)
            for worker, task, message in pool.wait(WAIT):
                if isinstance(message, Answer):
                    self.take(task, message)
                progress(worker, "" if isinstance(message, Answer) else message)

    def take(self, task: Task, answer: Answer) -> None:
        """Process the answer to a task."""
        if isinstance(task, VictimConfig):
            self._take_training(task, answer)
            return
        if answer.state == "failed":
            self.executor.results.note_failure(task, answer.message)
        elif answer.state == "measured":
            self.executor.results.failures.remove(task.name)
        self._settle(Outcome(task=task, state=answer.state, message=answer.message))

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes in the order of the cells. Also sorts the files of records."""
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
