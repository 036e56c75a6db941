"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest

from faulty_server import Server, running
from mlserver_runner import host, mlserver_python

__all__ = ["host", "mlserver_python"]  # fixtures


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A model server on this machine, whose answers a test decides."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as started:
        yield started
