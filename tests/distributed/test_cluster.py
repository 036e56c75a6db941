"""Connecting to a Ray cluster: what is said if there is none, and how its cores are shared."""

import sys

import pytest

from maskrestore.distributed.cluster import ClusterSize, Node, connect, share_of
from maskrestore.errors import ConfigError, MissingDependencyError


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:port"])
def test_an_address_without_a_cluster_is_said(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError) as caught, connect(address):
        pass
    message = str(caught.value)
    assert message.startswith(f"no Ray cluster answers at {address} (")
    assert message.endswith("give the address of one that runs, as HOST:PORT")


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in (None, "auto"):
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connect(address):
            pass


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'maskrestore\[ray\]'"), connect(None):
        pass


def test_a_size_in_words() -> None:
    assert str(ClusterSize((Node(cpus=1, gpus=0),))) == "1 node, 1 core, 0 GPUs"
    assert str(ClusterSize((Node(cpus=8, gpus=1), Node(cpus=4, gpus=0)))) == "2 nodes, 12 cores, 1 GPU"


def size(*cpus, gpus=0):
    return ClusterSize(tuple(Node(cpus=each, gpus=gpus) for each in cpus))


@pytest.mark.parametrize(
    ("nodes", "device", "jobs", "expected"),
    [
        (size(8, 8), "cpu", None, (16, 1, 0)),
        (size(8, 8), "cpu", 4, (4, 4, 0)),
        (size(8, 8), "cpu", 3, (3, 4, 0)),  # five cores each would leave no room for the third
        (size(8, 2), "cpu", 2, (2, 4, 0)),
        (size(2), "cpu", 5, (5, 1, 0)),  # three wait
        (size(16, 8, gpus=2), "cuda", None, (4, 4, 1)),
        (size(4, gpus=2), "cuda", 1, (1, 2, 1)),
    ],
)
def test_the_cores_of_a_cluster_are_shared(nodes, device, jobs, expected):
    share = share_of(nodes, device, jobs)
    assert (share.workers, share.cores, share.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "message"),
    [
        (size(4), "cuda", r"the cluster has no GPU \(1 node, 4 cores, 0 GPUs\); use --device cpu"),
        (size(4, gpus=2), "cuda:1", "Ray chooses the GPU of each worker; use --device cuda"),
        (size(0), "cpu", "has no cores for workers"),
    ],
)
def test_what_a_cluster_lacks_is_said(nodes, device, message):
    with pytest.raises(ConfigError, match=message):
        share_of(nodes, device)
