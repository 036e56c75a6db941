"""Starts gateways for the tests, and says where they keep decisions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faulty_server import Server
from gateway_runner import Running, running_gateway
from maskrestore.gateway import ids
from maskrestore.gateway.config import GatewayConfig


@pytest.fixture
def gateway(server: Server) -> Iterator[Callable[..., Running]]:
    """Starts a gateway in front of the faulty server: ``gateway(model settings, section={...})``."""
    open_ones: list[Any] = []

    def start(model: dict[str, Any] | None = None, *, restorer: Any = None, **sections: Any) -> Running:
        one = {"classifier": server.address, "patience": 0.0, **(model or {})}
        more = {name: sections.pop(name) for name in ("read_config",) if name in sections}
        config = GatewayConfig.model_validate({"models": {"colours": one}, **sections})
        context = running_gateway(config, restorer, **more)
        open_ones.append(context)
        return context.__enter__()

    yield start
    for context in open_ones:
        context.__exit__(None, None, None)


@pytest.fixture
def plain_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gateway does to the ids of this process ends with the test."""
    monkeypatch.setattr(ids, "_end", "")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, plain_ids: None) -> dict[str, Any]:
    """Where decisions are kept: settings of ``[decisions]`` for a place that has none yet."""
    if request.param == "sqlite":
        return {"path": tmp_path / "d.sqlite"}
    return {"url": request.getfixturevalue("postgres").place()}
