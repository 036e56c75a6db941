"""Connect to a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.runtime.words import counted

__all__ = ["AUTO", "ClusterSize", "Node", "Share", "cluster_size", "connect", "load_ray", "share_of"]

AUTO = "auto"
"""The address of whichever cluster is there: see ``connect``."""

_LOCAL = "local"
"""The address of a new one."""

_ANSWER_TIME = 10.0
"""Seconds within which a cluster must take a connection."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of this process, and of a cluster that it starts
    "RAY_worker_niceness": "0",  # else workers give way to every other program
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_logging.yaml")),
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster has, whether it is in use or not."""

    cpus: int
    """Number of processor cores."""
    gpus: int


@dataclass(frozen=True)
class ClusterSize:
    """The machines of a cluster."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> int:
        """Processor cores of all machines."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all machines."""
        return sum(node.gpus for node in self.nodes)

    def __str__(self) -> str:
        return ", ".join((counted(len(self.nodes), "node"), counted(self.cpus, "core"), counted(self.gpus, "GPU")))


@contextmanager
def connect(address: str | None, *, cpus: int | None = None) -> Iterator[bool]:
    """Connect this process to a Ray cluster for as long as the context lasts.

    address: ``HOST:PORT`` of a cluster, or ``ray://HOST:PORT``. ``None`` or ``auto``: the cluster that the variable
    RAY_ADDRESS names, else the one that ``ray start`` started on this machine, else a new one on this machine, which
    ends with the context. ``local``: a new one in any case. A process that is connected already stays so, and nothing
    is done. cpus: cores of a new one; ``None``: those of the machine. Gives whether there is a new one.

    Raises MissingDependencyError without Ray, and ConfigError if there is no cluster at the address.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield False
        return
    terminate = signal.getsignal(signal.SIGTERM)
    wanted = os.environ.get("RAY_ADDRESS") if address in (None, AUTO) else address
    try:
        if wanted and ":" in wanted:
            _try_port(wanted)
        new = _init(ray, address or AUTO, cpus)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"no Ray cluster answers at {wanted or 'this machine'} ({reason}); start one with `ray start --head`, or "
            "give the address of one that runs, as HOST:PORT"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray has put its own handler in its place
    try:
        yield new
    finally:
        ray.shutdown()


def _init(ray: Any, address: str, cpus: int | None) -> bool:
    options = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    if address != _LOCAL:
        try:
            ray.init(address=address, **options)
            return False
        except ConnectionError:
            if address != AUTO or "RAY_ADDRESS" in os.environ:
                raise
    ray.init(address=_LOCAL, num_cpus=cpus, **options)
    return True


def cluster_size() -> ClusterSize:
    """Return the machines of the cluster that this process is connected to."""
    found = [node["Resources"] for node in load_ray().nodes() if node["Alive"]]
    return ClusterSize(tuple(Node(cpus=int(one.get("CPU", 0)), gpus=int(one.get("GPU", 0))) for one in found))


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many workers there are, and what each of them reserves."""

    workers: int
    cores: int
    gpus: int


def share_of(size: ClusterSize, device: str, workers: int | None = None) -> Share:
    """Divide a cluster among workers of a device.

    workers: ``None`` for one on each core, or on each GPU if ``device`` is not the CPU. Fewer get more cores each, as
    many as all of them can have without being spread over two nodes. More wait until there are cores for them.

    Raises ConfigError if the cluster has no such device, or if ``device`` names a single GPU.
    """
    place = torch.device(device)
    if place.index is not None:
        raise ConfigError(
            f"--device {device} with --ray: Ray chooses the GPU of each worker; use --device {place.type}"
        )
    if place.type != "cpu":
        nodes = [node for node in size.nodes if node.gpus]
        if not nodes:
            raise ConfigError(
                f"--device {device}: the cluster has no GPU ({size}); use --device cpu, or add such nodes"
            )
        cores = max(1, min(node.cpus // node.gpus for node in nodes))
        return Share(workers=workers or size.gpus, cores=cores, gpus=1)
    if not size.cpus:
        raise ConfigError(f"the Ray cluster has no cores for workers ({size}); add nodes to it")
    wanted = workers or size.cpus
    fitting = (
        cores
        for cores in range(max(node.cpus for node in size.nodes), 1, -1)
        if sum(node.cpus // cores for node in size.nodes) >= wanted
    )
    return Share(workers=wanted, cores=next(fitting, 1), gpus=0)


def _try_port(address: str) -> None:
    """Raise OSError if nothing listens at ``HOST:PORT``: Ray itself tries for minutes. Raises ValueError for others."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIME).close()


def load_ray() -> Any:
    """Import Ray, which then sends no usage statistics and is quiet. Raises MissingDependencyError."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - the extra ray
    except ImportError as error:
        raise MissingDependencyError("ray", "ray") from error
    return ray
