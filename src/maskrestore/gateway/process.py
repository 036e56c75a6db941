"""A process that answers requests, until it is told to end and everything accepted is answered."""

from __future__ import annotations

import asyncio
import logging.config
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from maskrestore.gateway.app import make_app
from maskrestore.gateway.connections import connections_with
from maskrestore.gateway.gateway import Gateway

__all__ = ["Listening", "Process", "address_of", "in_background", "log_as_json"]

_MORE_SECONDS = 5
"""For answers, behind the limit of a request, before the gateway ends in any case."""

_BACKGROUND: set[asyncio.Task[Any]] = set()


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a gateway listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    proxies: str | None = None
    """Addresses of proxies, with commas between, whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""


class Process(uvicorn.Server):
    """Answers requests for a gateway."""

    def __init__(self, gateway: Gateway, where: Listening, begun: Callable[[], None]) -> None:
        """begun: is called in the loop once requests are accepted."""
        limits = gateway.config.limits
        settings = uvicorn.Config(
            make_app(gateway), host=where.host, port=where.port, log_config=None, access_log=False,
            server_header=False, ssl_certfile=where.tls_certificate, ssl_keyfile=where.tls_key,
            proxy_headers=where.proxies is not None, forwarded_allow_ips=where.proxies,
            http=connections_with(limits.connection_timeout, limits.connections), limit_concurrency=limits.connections,
            timeout_graceful_shutdown=round(limits.timeout) + _MORE_SECONDS,
        )  # fmt: skip
        super().__init__(settings)
        self._gateway, self._begun = gateway, begun

    def answer(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until SIGTERM or SIGINT. Then no more requests are accepted, and those that are get their answers.

        sockets: that are bound already.
        """
        with suppress(KeyboardInterrupt):  # the server hands on the signal that ended it
            asyncio.run(self.serve(sockets))

    def end(self) -> None:
        """End, as with SIGTERM."""
        self._gateway.draining = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        self._begun()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The gateway is told as soon as it is to end."""
        self._gateway.draining = True
        super().handle_exit(sig, frame)


def address_of(where: Listening, bound: socket.socket) -> str:
    """Where a gateway listens: ``http://host:port``."""
    host, port = bound.getsockname()[:2]
    scheme = "http" if where.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def in_background(work: Coroutine[Any, Any, Any]) -> None:
    """Have the loop do something that nobody waits for. The loop alone would not keep its task until it is done."""
    task = asyncio.get_running_loop().create_task(work)
    _BACKGROUND.add(task)
    task.add_done_callback(_BACKGROUND.discard)


def log_as_json() -> None:
    """A JSON object in a line on standard error for each message. None of them holds pixels or keys."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": "pythonjsonlogger.json.JsonFormatter",
                    "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
                    "rename_fields": {"asctime": "time", "levelname": "level", "name": "from"},
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "loggers": {
                "maskrestore": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
                "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            },
        }
    )
