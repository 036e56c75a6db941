"""A gateway that really listens on the loopback, in a thread of the test, and its client."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from fakes import MeanRestorer
from maskrestore.gateway.app import make_app
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.connections import connections_with
from maskrestore.gateway.gateway import Gateway

KEY = b"a key of the tests"


class Running:
    """A gateway and a client of it."""

    def __init__(self, gateway: Gateway, address: str) -> None:
        self.gateway, self.address = gateway, address
        self.client = httpx.Client(base_url=address, timeout=20, trust_env=False)
        self.loop: asyncio.AbstractEventLoop

    def call(self, coroutine: Any) -> Any:
        """Run something in the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)


@contextmanager
def running_gateway(config: GatewayConfig, restorer: Any = None, **more: Any) -> Iterator[Running]:
    gateway = Gateway(config, MeanRestorer() if restorer is None else restorer, key=KEY, **more)
    connections = config.limits.connections
    protocol = connections_with(config.limits.connection_timeout, connections)
    settings = uvicorn.Config(
        make_app(gateway), host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=20, http=protocol,
        limit_concurrency=connections,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.002)
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    found = Running(gateway, f"http://127.0.0.1:{port}")
    found.loop = loops[0]
    try:
        with found.client:
            yield found
    finally:
        gateway.draining = True
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
