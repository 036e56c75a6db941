"""Starts gateways for the tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faulty_server import Server
from gateway_runner import Running, running_gateway
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
