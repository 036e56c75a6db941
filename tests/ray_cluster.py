"""A small cluster of Ray that a test starts on this machine, and Serve on the loopback."""

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECRET = "a key of the tests"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Cluster:
    """Its address for clients, its folder, and its processes."""

    def __init__(self, port: int, folder: Path) -> None:
        self.address, self.folder = f"http://127.0.0.1:{port}", folder

    def replicas(self) -> list[int]:
        """Processes of replicas, those of this cluster only."""
        return [
            pid for pid in _processes("ServeReplica") if _environment(pid).get("MASKRESTORE_TEST") == str(self.folder)
        ]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def logs(self) -> Iterator[bytes]:
        for path in (self.folder / "session_latest/logs").rglob("*"):
            if path.is_file():
                yield path.read_bytes()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Ray with two processors, and Serve, meanwhile. Replicas find the modules of the tests."""
    import ray
    from ray import serve

    folder = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))  # short: sockets are below it
    given = {
        "PYTHONPATH": os.pathsep.join(one for one in sys.path if one), "RAY_USAGE_STATS_ENABLED": "0",
        "MASKRESTORE_TEST": str(folder), "MASKRESTORE_KEY": SECRET,
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(given)
    try:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000,
            _temp_dir=str(folder), log_to_driver=False,
        )  # fmt: skip
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Cluster(port, folder)
        serve.shutdown()
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _processes(words: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words in command:
            yield int(path.parent.name)


def _environment(pid: int) -> dict[str, Any]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(one.partition("=")[::2] for one in text.split("\0") if one)
