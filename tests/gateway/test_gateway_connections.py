"""Clients that are slow, or open connections and do nothing, are cut off; the others are answered meanwhile."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from gateway_runner import Running

Start = Callable[..., Running]
BEGUN = b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        yield connection


def statuses(connection: socket.socket, count: int) -> list[bytes]:
    """The statuses of so many answers, which arrive in pieces."""
    found, content = [], b""
    while len(found) < count:
        content += connection.recv(10_000) or pytest.fail(f"closed after {content!r}")
        found = re.findall(rb"HTTP/1.1 (\d+) ", content)
    return found


def drip(connection: socket.socket, content: bytes, pause: float = 0.02) -> bytes:
    """Send byte by byte until something comes back; what that is."""
    connection.setblocking(False)
    try:
        for one in content:
            connection.send(bytes([one]))
            time.sleep(pause)
            try:
                return connection.recv(1000)
            except BlockingIOError:
                continue
    finally:
        connection.settimeout(5)
    return connection.recv(1000)


def test_headers_byte_by_byte_are_408(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 0.3})
    with connected(running) as connection:
        started = time.monotonic()
        answer = drip(connection, LIVE + b"X-Slow: " + b"a" * 1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"longer than 0.3 s" in answer
        assert connection.recv(1000) == b"", "it is closed"
        assert time.monotonic() - started < 2


def test_fast_headers_are_answered_and_those_of_the_next_request_have_time_again(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 0.4})
    with connected(running) as connection:
        for _ in range(3):
            connection.sendall(LIVE[:20])
            time.sleep(0.2)
            connection.sendall(LIVE[20:] + b"\r\n")
            assert statuses(connection, 1) == [b"200"]
        connection.sendall(LIVE + b"\r\n" + LIVE)  # one request, and the begin of another
        assert statuses(connection, 2) == [b"200", b"408"]


def test_a_body_behind_its_refusal_does_not_keep_the_connection(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 0.3, "body_bytes": 100})
    with connected(running) as connection:
        head = b"POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        started = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - started < 5:
                connection.sendall(b"a")
                time.sleep(0.01)
        assert time.monotonic() - started < 2


def test_idle_connections_are_closed_after_a_while(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 0.5})
    with ExitStack() as open_ones:
        idle = [open_ones.enter_context(connected(running)) for _ in range(8)]
        assert [one.recv(10) for one in idle] == [b""] * 8
        assert running.client.get("/v2/health/live").status_code == 200


def test_connections_that_all_have_a_request_leave_no_place(gateway: Start) -> None:
    running = gateway(limits={"connections": 8, "body_timeout": 1.0})
    with ExitStack() as open_ones:
        busy = [open_ones.enter_context(connected(running)) for _ in range(7)]
        for one in busy:
            one.sendall(BEGUN)
        time.sleep(0.2)
        assert running.client.get("/v2/health/live").status_code == 503
        assert [statuses(one, 1) for one in busy] == [[b"408"]] * 7
    assert running.client.get("/v2/health/live").status_code == 200


def test_connections_that_do_nothing_keep_nobody_out(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 60, "connections": 8})
    with ExitStack() as stack:
        begun = stack.enter_context(connected(running))
        begun.sendall(BEGUN)
        time.sleep(0.2)  # it is read
        idle = [stack.enter_context(connected(running)) for _ in range(30)]
        for _ in range(3):
            with connected(running) as probe:
                probe.sendall(LIVE + b"\r\n")
                assert statuses(probe, 1) == [b"200"]
        assert idle[0].recv(10) == b"", "the one that waited longest was closed"
        begun.sendall(b"}")
        assert statuses(begun, 1) == [b"400"], "a request that has begun stays"


def test_a_client_that_does_not_take_its_answer_is_cut_off(gateway: Start) -> None:
    running = gateway(limits={"connection_timeout": 0.5})
    head = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(running) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        ended = False
        end = time.monotonic() + 10
        while not ended and time.monotonic() < end:
            try:
                connection.sendall(head)
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
    assert running.client.get("/v2/health/live").status_code == 200


def test_the_log_has_the_address_of_the_client(gateway: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = gateway()
    with caplog.at_level("INFO", logger="maskrestore.gateway.requests"):
        assert running.client.get("/v1/status").status_code == 200
        end = time.monotonic() + 5
        while not (records := [one for one in caplog.records if one.name == "maskrestore.gateway.requests"]):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert records[-1].__dict__["client"] == "127.0.0.1"
