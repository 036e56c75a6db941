"""Connect to a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.runtime.words import counted

__all__ = ["AUTO", "ClusterSize", "cluster_size", "connect", "load_ray"]

AUTO = "auto"
"""The address of whichever cluster is there: see ``connect``."""


@dataclass(frozen=True, kw_only=True)
class ClusterSize:
    """What the machines of a cluster have together, whether it is in use or not."""

    nodes: int
    """Number of machines."""
    cpus: int
    """Number of processor cores."""
    gpus: int

    def __str__(self) -> str:
        return ", ".join((counted(self.nodes, "node"), counted(self.cpus, "core"), counted(self.gpus, "GPU")))


@contextmanager
def connect(address: str | None, *, cpus: int | None = None) -> Iterator[bool]:
    """Connect this process to a Ray cluster for as long as the context lasts.

    address: ``HOST:PORT`` of a cluster, or ``ray://HOST:PORT``. ``None`` or ``auto``: the cluster that the variable
    RAY_ADDRESS names, else the one that ``ray start`` started on this machine, else a new one on this machine, which
    ends with the context. A process that is connected already stays so, and nothing is done. cpus: cores of a new one;
    ``None``: those of the machine. Gives whether there is a new one.

    Raises MissingDependencyError without Ray, and ConfigError if there is no cluster at the address.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield False
        return
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        new = _init(ray, address or AUTO, cpus)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        named = address if address not in (None, AUTO) else os.environ.get("RAY_ADDRESS") or "this machine"
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"no Ray cluster answers at {named} ({reason}); start one with `ray start --head`, or give the address of "
            "one that runs, as HOST:PORT"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray has put its own handler in its place
    try:
        yield new
    finally:
        ray.shutdown()


def _init(ray: Any, address: str, cpus: int | None) -> bool:
    options = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=address, **options)
    except ConnectionError:
        if address != AUTO or "RAY_ADDRESS" in os.environ:
            raise
        ray.init(address="local", num_cpus=cpus, **options)
        return True
    return False


def cluster_size() -> ClusterSize:
    """Return the size of the cluster that this process is connected to."""
    ray = load_ray()
    resources = ray.cluster_resources()
    return ClusterSize(
        nodes=sum(node["Alive"] for node in ray.nodes()),
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
    )


def load_ray() -> Any:
    """Import Ray, which then sends no usage statistics. Raises MissingDependencyError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - the extra ray
    except ImportError as error:
        raise MissingDependencyError("ray", "ray") from error
    return ray
