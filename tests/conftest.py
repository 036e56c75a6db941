"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest

from faulty_server import Server, running
from mlserver_runner import host, mlserver_python
from object_store import bucket, s3_server
from postgres_server import postgres

__all__ = ["bucket", "host", "mlserver_python", "postgres", "s3_server"]  # fixtures


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A model server on this machine, whose answers a test decides."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as started:
        yield started
