"""Fixtures that several folders use."""

import os
from collections.abc import Iterator

import pytest

from faulty_server import Server, running
from mlserver_runner import host, mlserver_python
from object_store import bucket, s3_server
from postgres_server import postgres

__all__ = ["bucket", "host", "mlserver_python", "postgres", "s3_server"]  # fixtures


def pytest_configure() -> None:
    """Forget the size of a terminal that readline leaves to processes, which the shared consoles would keep."""
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A model server on this machine, whose answers a test decides."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it is wanted."""
    if not os.environ.get("MASKRESTORE_TEST_CLUSTER"):
        later = pytest.mark.skip(reason="run by `make cluster`")
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(later)
