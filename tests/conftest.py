"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest

from faulty_server import Server, running
from mlserver_runner import host, mlserver_python
from postgres_server import postgres

__all__ = ["host", "mlserver_python", "postgres"]  # fixtures


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A model server on this machine, whose answers a test decides."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as started:
        yield started
