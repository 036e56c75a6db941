"""An MLServer on the loopback, from an environment of its own, since its pins do not fit ours. For tests, too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["free_port", "running_mlserver"]


@contextmanager
def running_mlserver(folder: Path, environment: Path) -> Iterator[str]:
    """Serve the models of a folder; yields the address, without ``/v2``.

    folder: model settings, and the modules that they name. environment: a virtual environment with ``mlserver``.
    Raises SystemExit with its log if it does not start in a minute.
    """
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **ports}))
    address, end = f"http://127.0.0.1:{ports['http_port']}", time.monotonic() + 60
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [environment.absolute() / "bin" / "mlserver", "start", "."],
            cwd=folder, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip
        try:
            while not _ready(address):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit((folder / "log").read_text())
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    """A port of the loopback that nothing uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=1):
            return True
    except OSError:
        return False
