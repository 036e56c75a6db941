"""A pool of Ray actors that measure cells and train victims, on one machine or many.

As in the pool of processes, a worker that dies (killed, out of memory, its node lost) fails its current task only, and
another one takes its place. The one program that gives out the tasks gives each out once, so no two workers measure the
same cell, whatever the file system does. Workers write their records themselves: the folder of the results must be on a
file system that all nodes share, and that keeps locks of files.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from maskrestore.distributed.cluster import Share, load_ray
from maskrestore.errors import ConfigError
from maskrestore.lab.runner.executor import Answer, Executor, Task
from maskrestore.lab.runner.pool import Message
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder

__all__ = ["RayPool"]


@dataclass(kw_only=True)
class _Worker:
    """An actor and what is awaited from it."""

    actor: Any
    awaited: Any
    """The reference to its start, then the messages of its task; ``None`` if it is idle."""
    node: str = ""
    """The address of its node; empty until it has started."""
    task: Task | None = None


class RayPool:
    """A context manager with workers on the cluster that this process is connected to. They end with the context.

    All are started at once, and each can be given tasks as soon as the cluster has room for it. A worker that cannot
    start is left out, with a warning.
    """

    def __init__(self, share: Share, results: ResultsFolder, make_resources: Callable[[], Resources]) -> None:
        """make_resources: pickled, and called in each worker."""
        self._ray = load_ray()
        self._share = share
        self._probe = results.path / f"{uuid.uuid4().hex}.shared"
        self._arguments = (results, make_resources, share.cores, self._probe, Path.cwd())
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> RayPool:
        self._probe.parent.mkdir(parents=True, exist_ok=True)
        self._probe.touch()
        for number in range(self._share.workers):
            self._start(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers.values():
            self._ray.kill(worker.actor)
        self._probe.unlink(missing_ok=True)

    @property
    def working(self) -> bool:
        """Whether any worker has a task."""
        return any(worker.task is not None for worker in self._workers.values())

    @property
    def idle(self) -> list[int]:
        """The numbers of the workers that have started and have no task."""
        return [number for number, worker in self._workers.items() if worker.awaited is None]

    def give(self, number: int, task: Task) -> None:
        """Send a task to an idle worker."""
        worker = self._workers[number]
        worker.task, worker.awaited = task, worker.actor.do.options(num_returns="streaming").remote(task)

    def wait(self, seconds: float) -> list[Message]:
        """Wait for messages at most ``seconds``. Raises ConfigError if no worker can start."""
        awaited = {worker.awaited: number for number, worker in self._workers.items() if worker.awaited is not None}
        if not awaited:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(awaited), timeout=seconds)
        found = [self._receive(awaited[one]) for one in ready]
        return [message for message in found if message is not None]

    def _receive(self, number: int) -> Message | None:
        worker = self._workers[number]
        if worker.task is None:
            self._take_start(number, worker)
            return None
        task = worker.task
        try:
            message: Answer | str = self._ray.get(next(worker.awaited))
        except self._ray.exceptions.RayError as error:
            message = self._death_of(number, worker, error)
        else:
            if isinstance(message, Answer):
                worker.task = worker.awaited = None
        return number, task, message

    def _start(self, number: int) -> None:
        # An actor that died is not started again by Ray, because the task that killed it must fail.
        kind = self._ray.remote(num_cpus=self._share.cores, num_gpus=self._share.gpus, max_restarts=0)(_Actor)
        actor = kind.remote(*self._arguments)
        self._workers[number] = _Worker(actor=actor, awaited=actor.start.remote())

    def _take_start(self, number: int, worker: _Worker) -> None:
        """Process the message of a worker that has started, or could not."""
        try:
            worker.node, problem = self._ray.get(worker.awaited)
        except self._ray.exceptions.RayError as error:
            problem = " ".join(str(error).split())
        if not problem:
            worker.awaited = None
            return
        self._ray.kill(worker.actor)
        del self._workers[number]
        if not self._workers:
            raise ConfigError(f"no worker could start on the Ray cluster; the last one: {problem}")
        warnings.warn(f"a worker could not start and is left out: {problem}", stacklevel=2)

    def _death_of(self, number: int, worker: _Worker, error: Exception) -> Answer:
        """Clean up after a worker that died, and start another one."""
        self._ray.kill(worker.actor)  # it may live on a node that cannot be reached
        self._start(number)
        return Answer(
            state="failed",
            message=f"the worker on {worker.node} died ({type(error).__name__}): it was killed, possibly because "
            "memory ran out, or its node was lost",
        )


class _Actor:
    """A worker: executes one task after the other, in an actor of Ray."""

    def __init__(
        self, results: ResultsFolder, make_resources: Callable[[], Resources], threads: int, probe: Path, folder: Path
    ) -> None:
        """probe: a file in the folder of the results, which all workers must see. folder: of relative paths."""
        self._results, self._make_resources, self._threads = results, make_resources, threads
        self._probe, self._folder = probe, folder

    def start(self) -> tuple[str, str]:
        """Load what tasks need. Returns the address of the node and why that failed, or an empty text."""
        node = str(load_ray().util.get_node_ip_address())
        if self._folder.is_dir():
            os.chdir(self._folder)
        if not self._probe.exists():
            return node, (
                f"the node {node} does not see the folder {self._results.path} of the results; choose one on a file "
                "system that all nodes share"
            )
        torch.set_num_threads(self._threads)
        try:
            self._executor = Executor(results=self._results, resources=self._make_resources())
        except Exception as error:  # any error leaves out this worker only
            return node, f"{type(error).__name__} on the node {node}: {' '.join(str(error).split())}"
        return node, ""

    def do(self, task: Task) -> Iterator[str | Answer]:
        """Execute a task. Yields texts on its progress, and then the answer."""
        messages: queue.SimpleQueue[str | Answer] = queue.SimpleQueue()

        def work() -> None:
            answer = Answer(state="failed", message="the task ended itself")
            try:
                answer = self._executor.do(task, messages.put)
            finally:
                messages.put(answer)

        threading.Thread(target=work, daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if isinstance(message, Answer):
                return
