"""``maskrestore reproduce --jobs --ray``: who measures the cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from maskrestore.cli.terminal import say
from maskrestore.distributed.cluster import Share, cluster_size, connect, share_of
from maskrestore.lab.runner.pool import available_cores, threads_of_a_worker
from maskrestore.runtime.words import counted

__all__ = ["Workers", "chosen_workers"]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers measure the cells."""

    count: int
    threads: int
    """Threads of each."""
    cores: int
    """Processor cores that all of them use together."""
    share: Share | None = None
    """What each of them reserves on the Ray cluster; ``None`` for processes on this machine."""


@contextmanager
def chosen_workers(jobs: int | None, ray: str | None, device: str) -> Iterator[Workers]:
    """The workers that ``--jobs`` and ``--ray`` ask for. While the context lasts, this process is connected to Ray."""
    if ray is None:
        count = jobs or 1
        threads = threads_of_a_worker(count) if count > 1 else torch.get_num_threads()
        # If there are more processes than cores, they share them.
        yield Workers(count=count, threads=threads, cores=min(count * threads, max(threads, available_cores())))
        return
    with connect(ray):
        size = cluster_size()
        share = share_of(size, device, jobs)
        say(f"Ray cluster with {size}: {counted(share.workers, 'worker')} of {counted(share.cores, 'core')}")
        cores = max(share.cores, min(share.workers * share.cores, size.cpus))
        yield Workers(count=share.workers, threads=share.cores, cores=cores, share=share)
