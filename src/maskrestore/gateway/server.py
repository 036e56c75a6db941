"""Run a gateway, as one process or several."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable

from maskrestore.defense.streams import Key
from maskrestore.errors import ConfigError
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.process import Listening, Process, address_of, in_background, log_as_json
from maskrestore.gateway.supervisor import Supervisor
from maskrestore.mae.choice import load_restorer

__all__ = ["Listening", "check_open", "serve"]

_LOG = logging.getLogger(__name__)


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
    check_open(config, where.host)

    def read_again() -> GatewayConfig:
        assert read_config is not None
        again = read_config()
        check_open(again, where.host)
        return again

    def begun(bound: socket.socket) -> None:
        address = address_of(where, bound)
        _LOG.info("listening", extra={"address": address})
        told(address)

    log_as_json()
    reading = None if read_config is None else read_again
    if config.workers > 1:
        asyncio.run(Supervisor(config, where, key=key, read_config=reading, begun=begun).run())
    else:
        _serve_alone(config, where, key=key, read_config=reading, begun=begun)


def _serve_alone(
    config: GatewayConfig,
    where: Listening,
    *,
    key: Key,
    read_config: Callable[[], GatewayConfig] | None,
    begun: Callable[[socket.socket], None],
) -> None:
    restorer = load_restorer(config.restorer, precision=config.restorer_precision, device=config.device)
    gateway = Gateway(config, restorer, key=key, read_config=read_config)

    def answering() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: in_background(gateway.reload()))
        begun(process.servers[0].sockets[0])

    process = Process(gateway, where, answering)
    process.answer()


def check_open(config: GatewayConfig, host: str) -> None:
    """Without keys, only this machine may use a gateway. host: where it listens. Raises ConfigError."""
    if not config.tenants and not _is_loopback(host):
        raise ConfigError(
            f"without keys the gateway listens on the loopback only, and {host} is not on it; make keys with "
            "maskrestore serve --new-key, and put their hashes into the configuration: [tenants.NAME] and [operator]"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
