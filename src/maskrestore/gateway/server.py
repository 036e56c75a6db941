"""Run a gateway: a process that ends when it is told to, once everything accepted is answered."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import logging.config
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from maskrestore.defense.streams import Key
from maskrestore.errors import ConfigError
from maskrestore.gateway.app import make_app
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.connections import connections_with
from maskrestore.gateway.gateway import Gateway
from maskrestore.mae.choice import load_restorer

__all__ = ["Listening", "serve"]

_LOG = logging.getLogger(__name__)
_MORE_SECONDS = 5
"""For answers, behind the limit of a request, before the gateway ends in any case."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a gateway listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    proxies: str | None = None
    """Addresses of proxies, with commas between, whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""


def serve(
    config: GatewayConfig,
    where: Listening,
    *,
    key: Key,
    read_config: Callable[[], GatewayConfig] | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT. Then no more are accepted, and those that are get their answers.

    SIGHUP reads the configuration again. key: the operator's secret. told: is told the address, ``http://host:port``,
    once requests are answered. Raises ConfigError, and what loading raises.
    """
    if not config.tenants and not _is_loopback(where.host):
        raise ConfigError(
            f"without keys the gateway listens on the loopback only, and {where.host} is not on it; make keys with "
            "maskrestore serve --new-key, and put their hashes into the configuration: [tenants.NAME] and [operator]"
        )
    _log_as_json()
    restorer = load_restorer(config.restorer, precision=config.restorer_precision, device=config.device)
    gateway = Gateway(config, restorer, key=key, read_config=read_config)
    settings = uvicorn.Config(
        make_app(gateway), host=where.host, port=where.port, log_config=None, access_log=False, server_header=False,
        ssl_certfile=where.tls_certificate, ssl_keyfile=where.tls_key,
        proxy_headers=where.proxies is not None, forwarded_allow_ips=where.proxies,
        http=connections_with(config.limits.connection_timeout), limit_concurrency=config.limits.connections,
        timeout_graceful_shutdown=round(config.limits.timeout) + _MORE_SECONDS,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # the server hands on the signal that ended it
        asyncio.run(_run(_Server(settings, gateway), gateway, told))


class _Server(uvicorn.Server):
    """Tells the gateway as soon as it is to end."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.draining = True
        super().handle_exit(sig, frame)


async def _run(server: uvicorn.Server, gateway: Gateway, told: Callable[[str], None]) -> None:
    tasks: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = asyncio.create_task(gateway.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    saying = asyncio.create_task(_say_where(server, told))
    await server.serve()
    saying.cancel()


async def _say_where(server: uvicorn.Server, told: Callable[[str], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    scheme = "https" if server.config.is_ssl else "http"
    shown = f"[{host}]" if ":" in host else host
    address = f"{scheme}://{shown}:{port}"
    _LOG.info("listening", extra={"address": address})
    told(address)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _log_as_json() -> None:
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
