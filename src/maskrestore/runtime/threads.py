"""Work on several cores, with results that do not depend on how many there are.

Both functions here run their work in a pool of threads that compute on one core each. The pool is shared by the whole
process, so that several threads of a server may use it at once. The number of threads that PyTorch computes with in
any other thread stays as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["map_on_cores", "run_on_one_core"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_POOLS: dict[int, ThreadPoolExecutor] = {}
_LOCK = threading.Lock()


def map_on_cores(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> list[Result]:
    """Return ``[function(a) for a in arguments]``; each call runs on one core, as many at once as PyTorch has threads.

    A matrix product that is spread over cores may round a row differently, depending on where the rows are cut: on an
    AMD EPYC with four threads, the bits of a restored image depended on its place in the batch. On one core they do
    not. This is faster, too, since no core waits for another inside a product.

    ``function`` must be thread-safe. It must enter contexts such as ``torch.inference_mode`` itself. The first
    exception is raised once all calls that have started are done; the others are not started.
    """
    workers = torch.get_num_threads()
    if workers == 1:
        return [function(argument) for argument in arguments]
    futures = [_pool(workers).submit(function, argument) for argument in arguments]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def run_on_one_core(function: Callable[[], Result]) -> Result:
    """Return ``function()``, computed on one core: for many operations on small tensors.

    With several cores, the threads of PyTorch wait for one another after each operation. That gains nothing, and on a
    shared machine they wait for most of the time.
    """
    return map_on_cores(lambda _: function(), [None])[0]


def _pool(workers: int) -> ThreadPoolExecutor:
    with _LOCK:
        if workers not in _POOLS:
            _POOLS[workers] = _started_pool(workers)
        return _POOLS[workers]


def _started_pool(workers: int) -> ThreadPoolExecutor:
    """A pool whose threads have all set their own number of cores.

    ``torch.set_num_threads`` also sets the number for threads that start later, so it is set back when all have begun.
    """
    begun = threading.Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="one-core", initializer=_use_one_core)
    for _ in range(workers):
        pool.submit(begun.wait)
    begun.wait()
    torch.set_num_threads(workers)
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread takes the number of the process when it first asks, so let it do so before
    torch.set_num_threads(1)


def _forget_pools() -> None:
    """Threads do not survive a fork, and another thread may have held the lock: a child process starts anew."""
    global _LOCK  # noqa: PLW0603 - a lock cannot be reset in place
    _POOLS.clear()
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)
