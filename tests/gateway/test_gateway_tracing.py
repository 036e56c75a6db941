"""Traces: off unless the environment asks for them; then a request, its queue, its rounds and its questions are one."""

import gzip
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fakes import plain_images
from faulty_server import Server, says
from gateway_runner import Running, running_gateway
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.tracing import Tracing, tracing_of_environment

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Any:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture
def running(server: Server, spans: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setenv("SECRET_PART", "s3cr3t")
    address = server.address + "?token=$SECRET_PART"
    one = {"classifier": address, "patience": 5.0, "body": '{"image": "{image_base64}"}', "label": "label"}
    config = GatewayConfig.model_validate({"models": {"colours": {**one, "scores": "labels"}}})
    server.answer = lambda _: {"label": 3}
    with running_gateway(config, tracing=Tracing(provider)) as found:
        yield found


def get(running: Running, path: str, body: bytes | None = None, **headers: str) -> int:
    """The status of an answer; without httpx, whose requests all have spans now."""
    asked = urllib.request.Request(running.address + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ended(spans: Any) -> list[Any]:
    """All spans, once that of the request has ended, which may be after its answer is here."""
    end = time.monotonic() + 10
    while not any("infer" in one.name for one in spans.get_finished_spans()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return list(spans.get_finished_spans())


def ask(running: Running, **headers: str) -> int:
    images = plain_images(2)
    entry = {"name": "input-0", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    return get(running, "/v2/models/colours/infer", json.dumps({"inputs": [entry]}).encode(), **headers)


def test_a_request_and_all_that_it_needs_are_one_trace(server: Server, running: Running, spans: Any) -> None:
    server.faults = [says(503, b"", Retry_After="0"), None]
    assert ask(running, traceparent=PARENT) == 200
    found = [one for one in ended(spans) if one.context.trace_id == int(PARENT.split("-")[1], 16)]
    names = Counter(one.name for one in found)
    (request,) = (one for one in found if "infer" in one.name)
    assert request.attributes["http.status_code"] == 200
    (purify,) = (one for one in found if one.name == "maskrestore.purify")
    assert purify.parent.span_id == request.context.span_id
    assert purify.attributes == {"maskrestore.model": "colours", "maskrestore.pictures": 2}
    assert names["maskrestore.queue"] == names["maskrestore.rounds"] == 2
    rounds = [one for one in found if one.name == "maskrestore.rounds"]
    queries = sum(one.attributes["maskrestore.queries"] for one in rounds)
    asked = [one for one in found if one.name == "POST"]
    assert len(asked) == server.asked == queries + 1, "one was asked again"
    inside = {one.parent.span_id for one in (*asked, *rounds)}
    assert inside == {purify.context.span_id}
    sent = {headers["traceparent"].split("-")[1] for headers in server.headers}
    assert sent == {PARENT.split("-")[1]}, "the upstream gets the trace"
    assert all(request.start_time <= one.start_time <= one.end_time <= request.end_time for one in asked)


def test_spans_hold_no_secret_and_probes_have_none(running: Running, spans: Any) -> None:
    assert ask(running) == 200
    told = "".join(one.to_json() for one in ended(spans))
    assert "s3cr3t" not in told
    assert "127.0.0.1" in told
    spans.clear()
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/colours/ready"):
        assert get(running, path) == 200
    assert [one.to_json() for one in spans.get_finished_spans()] == []


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "a"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
    ],
)
def test_the_standard_variables_decide(variables: dict[str, str], on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = tracing_of_environment()
    assert (found._provider is not None) == on
    if found._provider is not None:
        assert found._provider.resource.attributes["service.name"] == "maskrestore"
    found.close()


def test_spans_reach_a_collector(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.host)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my gateway")
    server.faults = [says(200, b"", "application/x-protobuf")]
    found = tracing_of_environment()
    with found.span("purify", pictures=2):
        pass
    found.close()
    (body,) = server.bodies
    body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    assert b"maskrestore.purify" in body
    assert b"my gateway" in body


def test_without_a_wish_nothing_of_opentelemetry_is_loaded() -> None:
    code = """
import sys
from maskrestore.gateway.app import make_app
from maskrestore.gateway.tracing import tracing_of_environment
with tracing_of_environment().span("purify"):
    pass
import json
parts = ("opentelemetry.sdk", "opentelemetry.instrumentation", "opentelemetry.exporter")
print(json.dumps([name for name in sys.modules if name.startswith(parts)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={
        "PYTHONPATH": ":".join(path for path in sys.path if path),
    })  # fmt: skip
    assert json.loads(done.stdout) == []
