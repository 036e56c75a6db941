"""Connections of clients that are slow, or do nothing: each is cut off in the end, since their number is limited."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connections_with"]


def connections_with(timeout: float, most: int) -> type[H11Protocol]:
    """uvicorn's protocol with a time-out in seconds, and for at most so many connections.

    The time is for the headers of a request, from the connection or the last answer on, and for a client to take a part
    of its answer. When there are too many connections, the one that has waited longest for a request is closed: those
    that do nothing keep nobody out, health probes least of all.
    """
    return type("Connection", (_Connection,), {"timeout": timeout, "most": most})


class _Connection(H11Protocol):
    timeout: float
    most: int
    _head: asyncio.TimerHandle | None = None
    _answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) >= self.most:
            self._make_room()
        self._wait_for_a_head()

    def _make_room(self) -> None:
        waiting = {one._head.when(): one for one in self.connections if isinstance(one, _Connection) and one._head}
        if waiting:
            longest = waiting[min(waiting)]
            longest._head = _without(longest._head)  # it is not chosen again
            longest.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        self._wait_for_a_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_a_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer = self.loop.call_later(self.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer = _without(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._answer = _without(self._head), _without(self._answer)
        super().connection_lost(exc)

    def _wait_for_a_head(self) -> None:
        """Go on waiting, or stop while there is a request. What comes bit by bit does not make it longer."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._head = _without(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.timeout, self._no_head)

    def _no_head(self) -> None:
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            words = f"the headers took longer than {self.timeout:g} s".encode()
            headers = [("content-type", "text/plain"), ("content-length", str(len(words))), ("connection", "close")]
            head = h11.Response(status_code=408, reason="Request Timeout", headers=headers)
            for event in (head, h11.Data(data=words), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
