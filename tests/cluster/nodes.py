"""Ray nodes that see one another over a network: each in a network namespace of its own, on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.7"
PORT = 6399
_QUICK_TO_NOTICE = {  # that a node does not answer: after some seconds, not after half a minute
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e" * 32}
"""What all processes of the cluster know, and nobody else."""


def environment(**more: str) -> dict[str, str]:
    """The variables of a process of the cluster, which finds the modules of the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **_TOKEN, **more}


def can_make_networks() -> bool:
    """Whether this process may create network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "mr-probe"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "delete", "mr-probe"], capture_output=True, check=False)
    return made


@dataclass
class Node:
    """A Ray node in a network namespace."""

    number: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def namespace(self) -> str:
        return f"mr-node{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{10 + self.number}"

    @property
    def link(self) -> str:
        """The end of its cable at the bridge."""
        return f"mr-cable{self.number}"

    def inside(self, *command: str) -> list[str]:
        """A command that runs in its network."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def processes(self) -> list[int]:
        """All processes in its network."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [int(line) for line in found.stdout.split()]

    def workers(self) -> list[int]:
        """Those of its processes that purify."""
        return [one for one in self.processes() if b"ray::" in _command(one)]

    def kill(self) -> None:
        """End all its processes at once, as if the machine lost its power."""
        for one in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def unplug(self) -> None:
        """Cut it off from the network."""
        _ip("link", "set", self.link, "down")

    def plug(self) -> None:
        """Connect it again."""
        _ip("link", "set", self.link, "up")

    def start(self, head: Node, folder: Path) -> None:
        """Start Ray on it, with one core."""
        whom = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
        if head is not self:
            whom = [f"--address={head.address}:{PORT}"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={self.address}"]
        sizes = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=120000000", "--disable-usage-stats"]
        with (folder / f"node{self.number}.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.inside(*ray, *whom, *sizes),
                env=environment(**_QUICK_TO_NOTICE),
                stdout=log,
                stderr=log,
            )


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[list[Node]]:
    """Nodes of a cluster, the first one its head."""
    nodes = [Node(number) for number in range(count)]
    folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))  # Ray's sockets need short names
    try:
        _connect(nodes)
        for node in nodes:
            node.start(nodes[0], folder)
            _wait_for_nodes(nodes[0], node.number + 1)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
            if node.process is not None:
                node.process.wait()
        _disconnect(nodes)
        shutil.rmtree(folder, ignore_errors=True)


def _connect(nodes: list[Node]) -> None:
    _disconnect(nodes)
    _ip("link", "add", "mr-bridge", "type", "bridge")
    _ip("link", "set", "mr-bridge", "up")
    for node in nodes:
        _ip("netns", "add", node.namespace)
        _ip("link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        _ip("link", "set", node.link, "master", "mr-bridge")
        _ip("link", "set", node.link, "up")
        for words in (
            ["addr", "add", f"{node.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            subprocess.run(node.inside("ip", *words), check=True)


def _disconnect(nodes: list[Node]) -> None:
    for node in nodes:
        subprocess.run(["ip", "netns", "delete", node.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", node.link], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", "mr-bridge"], capture_output=True, check=False)


def _wait_for_nodes(head: Node, count: int, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    program = f"import ray; ray.init('{head.address}:{PORT}', log_to_driver=False, logging_level=40); "
    program += "print(sum(node['Alive'] for node in ray.nodes()))"
    found = ""
    while found.strip() != str(count):
        assert time.monotonic() < end, f"{count} nodes did not come up: {found}"
        asked = subprocess.run(
            head.inside(sys.executable, "-c", program), env=environment(), capture_output=True, text=True, check=False
        )
        found = asked.stdout or asked.stderr


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
