"""Traces of OpenTelemetry: a request, what it waits for, and the questions to the upstream that it needs.

They are off unless the standard variables of the environment ask for them, and then cost nothing. Spans hold no pixels,
keys, or addresses beyond host and port.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from maskrestore.runtime.environment import own_version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Tracing", "tracing_of_environment"]

_LOG = logging.getLogger(__name__)
_ASKED_FOR = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROBES = "/v2/health/.*,/ready$,/metrics$,/v1/status$,/v1/decisions/stream$"
"""Requests without spans: programs send them all the time, or they do not end."""


class Tracing:
    """Makes spans, or none without a provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("maskrestore", own_version())

    def observe(self, app: FastAPI) -> None:
        """Make spans of the requests of an application, and of all requests of httpx, which pass the trace on."""
        if self._provider is None:
            return
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415 - an optional extra
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: PLC0415

        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._provider,
            excluded_urls=os.environ.get("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", _PROBES),
            exclude_spans=["receive", "send"],
        )
        os.environ.setdefault("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "/ready$")  # there is no argument for it
        HTTPXClientInstrumentor().instrument(tracer_provider=self._provider, request_hook=_hide_address)

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[object]:
        """A span around a block."""
        if self._tracer is None:
            return nullcontext()
        return self._tracer.start_as_current_span(f"maskrestore.{name}", attributes=_named(attributes))

    def past(self, name: str, start: float, seconds: float, **attributes: str | int) -> None:
        """A span of something that is over. start: by ``time.time``."""
        if self._tracer is None:
            return
        begun = round(start * 1e9)
        span = self._tracer.start_span(f"maskrestore.{name}", start_time=begun, attributes=_named(attributes))
        span.end(begun + round(seconds * 1e9))

    def close(self) -> None:
        """Send what is left, and make no more spans."""
        if self._provider is None:
            return
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: PLC0415 - an optional extra

        if HTTPXClientInstrumentor().is_instrumented_by_opentelemetry:
            HTTPXClientInstrumentor().uninstrument()
        self._provider.shutdown()


def tracing_of_environment() -> Tracing:
    """As the standard variables say: on if one of them names an exporter or its address.

    ``OTEL_TRACES_EXPORTER`` may be ``otlp`` (over HTTP), ``console`` or ``none``. Names of services, samplers, headers
    and so on are those of OpenTelemetry's documentation.
    """
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or wanted == "none"
    if is_off or not any(map(os.environ.get, _ASKED_FOR)):
        return Tracing()
    if wanted not in ("otlp", "console"):
        _LOG.warning("there are no traces: OTEL_TRACES_EXPORTER must be otlp, console or none, got %r", wanted)
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415
    except ImportError:
        _LOG.warning("there are no traces: the environment asks for them, and maskrestore[otel] is not installed")
        return Tracing()
    service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "maskrestore"}
    provider = TracerProvider(resource=Resource.create({**service, "service.version": own_version()}))
    provider.add_span_processor(
        BatchSpanProcessor(ConsoleSpanExporter() if wanted == "console" else OTLPSpanExporter())
    )
    return Tracing(provider)


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"maskrestore.{name}": value for name, value in attributes.items()}


def _hide_address(span: Any, request: Any) -> None:
    """Leave the host of an address: the rest may hold secrets of the environment."""
    for name in ("http.url", "url.full"):
        if name in (getattr(span, "attributes", None) or {}):
            found = urlsplit(str(span.attributes[name]))
            span.set_attribute(name, f"{found.scheme}://{found.netloc.rpartition('@')[2]}")
