"""An end for whole requests.

httpx limits each wait for the network, so a server that sends a byte in each can hold a request for as long as it
likes. Here all waits of a request end at one time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

__all__ = ["end_requests_of", "ending"]

_END: ContextVar[float] = ContextVar("end of the request", default=math.inf)
_PIECE = 2**14
"""Bytes that are written at a time: each write has its own wait."""


@contextmanager
def ending(end: float) -> Iterator[None]:
    """Requests in this block end at a time by ``time.monotonic``, with a time-out of httpx."""
    token = _END.set(end)
    try:
        yield
    finally:
        _END.reset(token)


def end_requests_of(client: httpx.Client) -> None:
    """Make ``ending`` hold for the requests of a client, proxies of the environment included."""
    # httpx has no setting for it; httpcore below it has one.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Network()


class _Network(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._network.connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    """Seconds for a wait. Raises the error if there are none."""
    left = _END.get() - time.monotonic()
    if left <= 0:
        raise error("the time of the request is over")
    return timeout if left == math.inf else min(left, left if timeout is None else timeout)
