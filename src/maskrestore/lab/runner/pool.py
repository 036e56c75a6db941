"""Processes that measure cells and train victims as they are told; one that dies takes only its task with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import torch

from maskrestore.lab.runner.executor import Answer, Executor, Task
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder

__all__ = ["Pool", "available_cores", "threads_of_a_worker"]

_PATIENCE = 10.0
"""Seconds that a process gets to end by itself before it is killed."""


@dataclass(kw_only=True)
class _Worker:
    """A process with our end of the line to it."""

    process: Any
    line: Connection
    task: Task | None = None


class Pool:
    """Up to ``size`` processes, started when they are needed; none is left when the context ends.

    Each makes its own resources and has its share of this process's threads. Ctrl-C does not reach them: they end when
    this process ends them, or is gone.
    """

    def __init__(
        self, size: int, results: ResultsFolder, make_resources: Callable[[], Resources], start_method: str
    ) -> None:
        """size: how many processes at most. start_method: as of ``multiprocessing``."""
        self._size = size
        self._context: Any = multiprocessing.get_context(start_method)
        self._arguments = (results, make_resources, threads_of_a_worker(size))
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
            worker.line.close()
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def working(self) -> bool:
        """Whether any process has a task."""
        return len(self.idle) < self._size

    @property
    def idle(self) -> list[int]:
        """The numbers of those without a task."""
        busy = {number for number, worker in self._workers.items() if worker.task is not None}
        return [number for number in range(self._size) if number not in busy]

    def give(self, number: int, task: Task) -> None:
        """Give a task to an idle worker."""
        worker = self._workers.get(number)
        if worker is None or not worker.process.is_alive():
            worker = self._start(number)
        worker.task = task
        with contextlib.suppress(OSError):  # it has died just now, as the next reading will show
            worker.line.send(task)

    def wait(self, seconds: float) -> list[tuple[int, Task, Answer | str]]:
        """Wait for news of the tasks at most so long: how far one is, or what became of it."""
        busy = {worker.line: number for number, worker in self._workers.items() if worker.task is not None}
        if not busy:
            time.sleep(seconds)
            return []
        return [self._news(busy[line]) for line in wait(list(busy), seconds) if isinstance(line, Connection)]

    def _news(self, number: int) -> tuple[int, Task, Answer | str]:
        worker = self._workers[number]
        assert worker.task is not None
        task = worker.task
        try:
            message: Answer | str = worker.line.recv()
        except (EOFError, OSError):
            message = self._buried(number)
        if isinstance(message, Answer):
            worker.task = None
        return number, task, message

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        # Starting the first process would start the tracker, too, which lets the signal through again.
        resource_tracker.ensure_running()
        # A process that is started now never sees Ctrl-C: it inherits that the signal is blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._workers[number] = _Worker(process=process, line=ours)
        return self._workers[number]

    def _buried(self, number: int) -> Answer:
        """Take leave of a process that died: the next task of this number gets a new one."""
        worker = self._workers.pop(number)
        worker.line.close()
        worker.process.join()
        code = worker.process.exitcode
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        killed = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return Answer(state="failed", message=f"the process ended {reason}{killed}")


def threads_of_a_worker(workers: int) -> int:
    """The processors divided by the workers, but no more than this process itself would use."""
    return max(1, min(torch.get_num_threads(), available_cores() // workers))


def available_cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(line: Connection, results: ResultsFolder, make_resources: Callable[[], Resources], threads: int) -> None:
    """What a process does: one task after the other, until the line is closed at the other end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that locks are given back
    torch.set_num_threads(threads)
    executor = Executor(results=results, resources=make_resources())
    with contextlib.suppress(EOFError, OSError):  # nobody is there any more
        while True:
            line.send(executor.do(line.recv(), line.send))
