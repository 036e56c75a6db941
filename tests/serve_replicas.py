"""What the tests know of a cluster of Ray that this process started: its replicas, its logs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path


def replicas() -> list[int]:
    """Processes of Serve's replicas, those that this process has started only."""
    return sorted(pid for pid in _processes("ServeReplica") if os.getpid() in _ancestors(pid))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def logs() -> Iterator[bytes]:
    """What all processes of the cluster wrote."""
    import ray

    (node,) = ray.nodes()
    for path in (Path(node["ObjectStoreSocketName"]).parents[1] / "logs").rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def _processes(words: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words in command:
            yield int(path.parent.name)


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
        found.append(pid)
    return found
