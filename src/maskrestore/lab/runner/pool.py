"""Worker processes. A worker that dies fails only its own task."""

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
"""Seconds that a process has to end by itself before it is killed."""


@dataclass(kw_only=True)
class _Worker:
    """A process, and our end of the pipe to it."""

    process: Any
    line: Connection
    task: Task | None = None


class Pool:
    """Up to ``size`` processes, started when they are needed; none is left when the context ends.

    Each makes its own resources and gets its share of this process's threads. Ctrl-C does not reach the workers: they
    end when this process ends them, or ends itself.
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
        """The numbers of the workers without a task."""
        busy = {number for number, worker in self._workers.items() if worker.task is not None}
        return [number for number in range(self._size) if number not in busy]

    def give(self, number: int, task: Task) -> None:
        """Give a task to an idle worker."""
        worker = self._workers.get(number)
        if worker is None or not worker.process.is_alive():
            worker = self._start(number)
        worker.task = task
        with contextlib.suppress(OSError):  # it has just died; the next read will show that
            worker.line.send(task)

    def wait(self, seconds: float) -> list[tuple[int, Task, Answer | str]]:
        """Wait up to ``seconds`` for messages of the workers: progress as text, or the final answer."""
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
        # Otherwise starting the first process would start the tracker too, and that unblocks the signal.
        resource_tracker.ensure_running()
        # A child process inherits that SIGINT is blocked, so it never sees Ctrl-C.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._workers[number] = _Worker(process=process, line=ours)
        return self._workers[number]

    def _buried(self, number: int) -> Answer:
        """Clean up after a process that died; the next task of this number gets a new process."""
        worker = self._workers.pop(number)
        worker.line.close()
        worker.process.join()
        code = worker.process.exitcode
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        killed = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return Answer(state="failed", message=f"the process ended {reason}{killed}")


def threads_of_a_worker(workers: int) -> int:
    """The available cores divided by the workers, but at most the threads of this process."""
    return max(1, min(torch.get_num_threads(), available_cores() // workers))


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(line: Connection, results: ResultsFolder, make_resources: Callable[[], Resources], threads: int) -> None:
    """The main loop of a worker: one task after the other, until the pipe is closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that locks are released
    torch.set_num_threads(threads)
    executor = Executor(results=results, resources=make_resources())
    with contextlib.suppress(EOFError, OSError):  # the other end is closed
        while True:
            line.send(executor.do(line.recv(), line.send))
