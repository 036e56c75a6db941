"""A server of one's own on the loopback: it speaks the Open Inference Protocol, and has every fault on demand."""

import gzip
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Fault = Callable[["Handler"], bool]
"""Answers a request in its own way; returns whether it did."""

METADATA = {
    "name": "colours",
    "platform": "test",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 8]}],
}


class Server(ThreadingHTTPServer):
    """Answers with the scores of :func:`fakes.colour_labels`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.metadata: Any = json.loads(json.dumps(METADATA))
        self.extensions: list[str] = []
        self.faults: list[Fault | None] = []
        """For the next questions, one each; the last one stays."""
        self.answer: Callable[[np.ndarray], dict[str, Any]] = scores
        self.asked = 0
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.hung_up: list[float] = []
        """When clients gave up, by ``time.monotonic``, see :func:`waits_for_the_end`."""
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def address(self) -> str:
        return f"{self.host}/v2/models/colours"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v2":
            self.reply(200, json.dumps({"name": "test", "extensions": self.server.extensions}).encode())
        elif self.server.metadata is None:
            self.reply(404, b'{"error": "unknown model"}')
        else:
            self.reply(200, json.dumps(self.server.metadata).encode())

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.asked += 1
            server.bodies.append(self.body)
            server.headers.append(dict(self.headers))
            server.connections.add(self.client_address)
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            fault = server.faults[0] if server.faults else None
            if len(server.faults) > 1:
                server.faults.pop(0)
        try:
            if fault is None or not fault(self):
                self.reply(200, json.dumps(server.answer(self.question())).encode())
        finally:
            with server.lock:
                server.busy -= 1

    def question(self) -> np.ndarray:
        """The pictures of a question, in JSON or in bytes."""
        length = self.headers.get("Inference-Header-Content-Length")
        header = json.loads(self.body[: int(length)] if length else self.body)
        if "inputs" not in header:
            return np.zeros(0)
        (entry,) = header["inputs"]
        dtype = {"FP32": "<f4", "FP16": "<f2", "UINT8": "u1", "INT32": "<i4"}[entry["datatype"]]
        raw = self.body[int(length) :] if length else b""
        if length:
            assert entry["parameters"]["binary_data_size"] == len(raw)
        values = np.frombuffer(raw, dtype) if length else np.array(entry["data"], dtype)
        return values.reshape(entry["shape"])

    def reply(self, status: int, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": kind, "Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def fail(self, status: int, content: bytes = b"", kind: str = "application/json", **headers: str) -> bool:
        self.reply(status, content, kind, **headers)
        return True


def scores(pictures: np.ndarray) -> dict[str, Any]:
    bright = pictures.astype(np.float64).mean(axis=(2, 3)) > 0.5
    labels = (bright << np.arange(pictures.shape[1])).sum(axis=1)
    return output("FP32", [len(labels), 8], np.eye(8)[labels].ravel().tolist())


def output(datatype: str, shape: list[int], data: list[Any], name: str = "scores") -> dict[str, Any]:
    return {"model_name": "colours", "outputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def says(status: int, content: bytes = b"", kind: str = "application/json", **headers: str) -> Fault:
    return lambda handler: handler.fail(status, content, kind, **headers)


def says_json(value: Any) -> Fault:
    return says(200, json.dumps(value).encode())


def slow(seconds: float) -> Fault:
    def wait(handler: Handler) -> bool:
        time.sleep(seconds)
        return False

    return wait


def cut_off(handler: Handler) -> bool:
    """Half of what the length says."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"outputs": [')
    handler.close_connection = True
    return True


def hangs_up(handler: Handler) -> bool:
    handler.close_connection = True
    handler.connection.close()
    return True


def endless(handler: Handler) -> bool:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def drips(handler: Handler) -> bool:
    """A byte now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
    return True


def drips_headers(handler: Handler) -> bool:
    """As :func:`drips`, before there is anything of a reply."""
    for one in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 1\r\n" * 100:
        handler.wfile.write(bytes([one]))
        handler.wfile.flush()
        time.sleep(0.05)
    return True


def waits_for_the_end(handler: Handler) -> bool:
    """Answers nothing, and notes when the client hangs up."""
    handler.rfile.read(1)
    handler.server.hung_up.append(time.monotonic())
    handler.close_connection = True
    return True


def bomb(handler: Handler) -> bool:
    return handler.fail(200, gzip.compress(b" " * 10**7), Content_Encoding="gzip")


def no_http(handler: Handler) -> bool:
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")
    handler.close_connection = True
    return True


def binary_reply(entries: list[tuple[str, str, list[int], bytes]], length: int | None = None) -> Fault:
    """A reply with tensors in bytes."""
    outputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in entries
    ]
    header = json.dumps({"outputs": outputs}).encode()
    shown = str(len(header) if length is None else length)
    content = header + b"".join(raw for *_, raw in entries)
    return says(200, content, "application/octet-stream", Inference_Header_Content_Length=shown)


def texts(*names: str) -> bytes:
    """Texts as the extension for binary tensors writes them: four bytes with the length, and UTF-8."""
    return b"".join(struct.pack("<I", len(name.encode())) + name.encode() for name in names)


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
