"""A pool of processes that measure cells and train victims. A process that dies fails its current task only."""

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
from typing import Any, Protocol

import torch

from maskrestore.lab.runner.executor import Answer, Executor, Task
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder

__all__ = ["Message", "Pool", "WorkerPool", "available_cores", "threads_of_a_worker"]

_GRACE_PERIOD = 10.0
"""Seconds for a process to end after it was asked to, before it is killed."""


@dataclass(kw_only=True)
class _Worker:
    """A process and this side of the connection to it."""

    process: Any
    line: Connection
    task: Task | None = None


Message = tuple[int, Task, Answer | str]
"""The number of a worker, its task, and a text on its progress or the answer."""


class WorkerPool(Protocol):
    """Workers with numbers from 0, which do one task after the other. Answers say which worker died."""

    @property
    def working(self) -> bool:
        """Whether any worker has a task."""
        ...

    @property
    def idle(self) -> list[int]:
        """The numbers of the workers that can be given a task."""
        ...

    def give(self, number: int, task: Task) -> None:
        """Send a task to an idle worker."""
        ...

    def wait(self, seconds: float) -> list[Message]:
        """Wait for messages at most ``seconds``."""
        ...


class Pool:
    """A context manager with up to ``size`` processes. They are started on demand and end with the context.

    Each process has its own resources and an equal share of this process's threads. Ctrl-C does not interrupt them.
    They end when this process stops them or dies.
    """

    def __init__(
        self, size: int, results: ResultsFolder, make_resources: Callable[[], Resources], start_method: str
    ) -> None:
        """size: maximum number of processes. make_resources: pickled, and called in each process. start_method: see
        ``multiprocessing``.
        """
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
        deadline = time.monotonic() + _GRACE_PERIOD
        for worker in self._workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def working(self) -> bool:
        """Whether any worker has a task."""
        return len(self.idle) < self._size

    @property
    def idle(self) -> list[int]:
        """The numbers of the workers without a task."""
        busy = {number for number, worker in self._workers.items() if worker.task is not None}
        return [number for number in range(self._size) if number not in busy]

    def give(self, number: int, task: Task) -> None:
        """Send a task to an idle worker. Starts its process if it is not running."""
        worker = self._workers.get(number)
        if worker is None or not worker.process.is_alive():
            worker = self._start(number)
        worker.task = task
        with contextlib.suppress(OSError):  # the process has just died; the next `wait` reports it
            worker.line.send(task)

    def wait(self, seconds: float) -> list[Message]:
        """Wait for messages at most ``seconds``."""
        busy = {worker.line: number for number, worker in self._workers.items() if worker.task is not None}
        if not busy:
            time.sleep(seconds)
            return []
        return [self._receive(busy[line]) for line in wait(list(busy), seconds) if isinstance(line, Connection)]

    def _receive(self, number: int) -> Message:
        worker = self._workers[number]
        assert worker.task is not None
        task = worker.task
        try:
            message: Answer | str = worker.line.recv()
        except (EOFError, OSError):
            message = self._death_of(number)
        if isinstance(message, Answer):
            worker.task = None
        return number, task, message

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        # Start the resource tracker first: starting it unblocks SIGINT again.
        resource_tracker.ensure_running()
        # The new process inherits the blocked signal, so Ctrl-C does not interrupt it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._workers[number] = _Worker(process=process, line=ours)
        return self._workers[number]

    def _death_of(self, number: int) -> Answer:
        """Clean up after a process that died. The next task of this worker starts a new process."""
        worker = self._workers.pop(number)
        worker.line.close()
        worker.process.join()
        code = worker.process.exitcode
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        killed = ", possibly because memory ran out" if code == -signal.SIGKILL else ""
        return Answer(state="failed", message=f"the process ended {reason}{killed}")


def threads_of_a_worker(workers: int) -> int:
    """Return the threads of each worker: available cores divided by workers, at most this process's threads."""
    return max(1, min(torch.get_num_threads(), available_cores() // workers))


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(line: Connection, results: ResultsFolder, make_resources: Callable[[], Resources], threads: int) -> None:
    """Main function of a worker: execute one task after the other until the connection is closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # exit normally, so that locks are released
    torch.set_num_threads(threads)
    executor = Executor(results=results, resources=make_resources())
    with contextlib.suppress(EOFError, OSError):  # the parent process has ended
        while True:
            line.send(executor.do(line.recv(), line.send))
