"""Connecting to a Ray cluster: what is said if there is none. The laboratory's tests connect to one."""

import sys

import pytest

from maskrestore.distributed.cluster import ClusterSize, Node, connect
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
