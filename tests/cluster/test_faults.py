"""Several Ray nodes, and what happens to them: the records are those of a run without faults.

``make cluster`` runs these tests. They need root and iproute2, and take some minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.nodes import PORT, Node, can_make_networks, environment, ray_nodes
from cluster_jobs import results, write_photos

COUNT = 48
PART = 4
MODEL = """
import time
from fakes import colour_labels

def slow(images):
    time.sleep(0.1 * len(images))
    return colour_labels(images)
"""

ENVIRONMENT = environment(MASKRESTORE_KEY="a key for the tests")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not can_make_networks(), reason="needs root and iproute2, for network namespaces"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working directory with pictures, a model, and the results of a run without faults."""
    folder = tmp_path_factory.mktemp("cluster")
    write_photos(folder / "photos", COUNT, side=32)
    (folder / "slow_model.py").write_text(MODEL)
    command("alone", folder).check_returncode()
    return folder


def words(out: str, *more: str) -> list[str]:
    program = [sys.executable, "-m", "maskrestore", "purify", "photos", "--classifier", "slow_model:slow"]
    return [*program, "--profile", "fast", "--precision", "float32", "--out", out, *more]


def command(out: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(out, *more),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@contextlib.contextmanager
def running(head: Node, folder: Path, out: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The command on the cluster."""
    ray = ["--ray", f"{head.address}:{PORT}", "--part-images", str(PART), *more]
    with subprocess.Popen(
        head.inside(*words(out, *ray)), cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def finished_parts(folder: Path, out: str) -> int:
    return len(list((folder / out / "parts").glob("*.jsonl")))


def wait_for_parts(process: subprocess.Popen[str], folder: Path, out: str, count: int) -> None:
    """Until so many parts are finished."""
    while finished_parts(folder, out) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def same_as_alone(folder: Path, out: str) -> bool:
    for kind in ("images", "maps"):
        alone = {path.name: path.read_bytes() for path in (folder / "alone" / kind).iterdir()}
        assert {path.name: path.read_bytes() for path in (folder / out / kind).iterdir()} == alone
    return results(folder / out) == results(folder / "alone")


def kill_node(node: Node) -> None:
    node.kill()


def part_and_join(node: Node) -> None:
    node.unplug()
    threading.Timer(20.0, node.plug).start()


def kill_workers(node: Node) -> None:
    for one in node.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def slow_down(node: Node) -> None:
    """For half a minute, its workers run a tenth of the time."""

    def pulse() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            workers = node.workers()
            for sent, seconds in ((signal.SIGSTOP, 0.9), (signal.SIGCONT, 0.1)):
                for one in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, sent)
                time.sleep(seconds)

    threading.Thread(target=pulse, daemon=True).start()


@pytest.mark.parametrize("fault", [kill_node, part_and_join, kill_workers, slow_down])
def test_a_fault_of_a_node_changes_no_record(folder, fault):
    with ray_nodes(3) as nodes, running(nodes[0], folder, fault.__name__) as process:
        wait_for_parts(process, folder, fault.__name__, 3)
        fault(nodes[2])
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert same_as_alone(folder, fault.__name__)


def test_a_command_that_was_killed_goes_on_where_it_stopped(folder):
    with ray_nodes(3) as nodes:
        with running(nodes[0], folder, "killed") as process:
            wait_for_parts(process, folder, "killed", 4)
        finished = finished_parts(folder, "killed")
        with running(nodes[0], folder, "killed") as process:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    assert same_as_alone(folder, "killed")
    queries = sum(record["queries"] for record in results(folder / "alone").values())
    assert f"{COUNT} images purified" in said
    asked = int(said.partition("changed, ")[2].partition(" quer")[0])
    assert asked <= queries * (1 - finished * PART / COUNT) * 1.5, "finished images were asked about again"


def test_a_full_disk_ends_the_job_and_room_lets_it_go_on(folder):
    out = folder / "disk"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)], check=True)
    try:
        with ray_nodes(2) as nodes:
            with running(nodes[0], folder, "disk") as process:
                said, _ = process.communicate(timeout=300)
                assert process.returncode == 1, said
                assert "cannot be written" in said
            subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
            with running(nodes[0], folder, "disk") as process:
                said, _ = process.communicate(timeout=300)
                assert process.returncode == 0, said
        assert same_as_alone(folder, "disk")
    finally:
        subprocess.run(["umount", str(out)], check=True)
