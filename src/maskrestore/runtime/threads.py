"""Several cores at work, and results that do not show how many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["map_on_cores", "on_one_core"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def map_on_cores(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> list[Result]:
    """``[function(a) for a in arguments]``, each call on one core, as many at once as PyTorch has threads.

    A matrix product that is itself spread over cores may round a row differently, depending on where the rows are cut:
    on an AMD EPYC with four threads, the same image was restored to bits that depended on its place in the batch. On
    one core it was not. It is faster, too, since nothing waits inside a product.

    ``function`` must be safe to call from several threads. What surrounds the caller's thread, like
    ``torch.inference_mode``, it must bring itself. The first exception is raised, when the calls under way are done.
    """
    workers = torch.get_num_threads()
    if workers == 1:
        return [function(argument) for argument in arguments]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, arguments))
    finally:
        torch.set_num_threads(workers)  # the pool's number is what PyTorch would give every thread that starts later


@contextmanager
def on_one_core() -> Iterator[None]:
    """A context in which PyTorch works on one core, for many operations on small tensors.

    Threads wait for one another after each of them, which gains nothing; where other programs use the cores, too, they
    wait for most of the time.
    """
    workers = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(workers)
