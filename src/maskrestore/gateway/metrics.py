"""Metrics for Prometheus. None of them names a picture or a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from maskrestore.gateway.models import ModelSlot
from maskrestore.gateway.records import Decision
from maskrestore.runtime.environment import own_version

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of a gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        Info("maskrestore_build", "Version", registry=self._registry).info({"version": own_version()})
        self._requests = self._counter("requests", "Answered requests", "route", "status")
        self._request_seconds = self._histogram("request_seconds", "From the first byte to the answer", "route")
        self._pictures = self._counter(
            "pictures", "Decisions, by what became of the picture", "model", "tenant", "outcome"
        )
        self._queries = self._counter("queries", "Questions to the model", "model", "tenant")
        self._picture_seconds = self._histogram("picture_seconds", "From acceptance to result", "model")
        self._waited = self._histogram("queue_seconds", "In the queue", "model")
        self._refused = self._counter("refused", "Requests that were not begun", "status")
        self._errors = self._counter("unhandled_errors", "Errors inside the gateway")

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, status: int) -> None:
        """Count a request that was not begun: no key, rate, budget, queue, size, ..."""
        self._refused.labels(str(status)).inc()

    def unhandled(self) -> None:
        """Count an error that nobody expected."""
        self._errors.inc()

    def decision(self, one: Decision) -> None:
        """Count a decision."""
        outcome = "changed" if one.changed else "unchanged"
        if one.label is None:
            outcome = "failed"
        elif not one.shielded:
            outcome = "unshielded"
        self._pictures.labels(one.model, one.tenant, outcome).inc()
        self._queries.labels(one.model, one.tenant).inc(one.queries or 0)
        self._picture_seconds.labels(one.model).observe(one.seconds)
        self._waited.labels(one.model).observe(one.waited)

    def text(self, slots: Iterable[ModelSlot]) -> bytes:
        """All of them in Prometheus' text format, with those that are read now."""
        now = _Now(list(slots))
        own = CollectorRegistry()
        own.register(now)
        return generate_latest(self._registry) + generate_latest(own)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"maskrestore_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, *labels: str) -> Histogram:
        return Histogram(f"maskrestore_{name}", words, labels, buckets=_SECONDS, registry=self._registry)


class _Now(Collector):
    """What models are like at the moment."""

    def __init__(self, slots: list[ModelSlot]) -> None:
        self._slots = slots

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        ready = GaugeMetricFamily("maskrestore_ready", "Whether the model is ready", labels=["model"])
        waiting = GaugeMetricFamily("maskrestore_waiting_pictures", "Pictures in the queue", labels=["model"])
        working = GaugeMetricFamily("maskrestore_working_pictures", "Pictures that are purified", labels=["model"])
        retries = CounterMetricFamily(
            "maskrestore_upstream_retries", "Questions that were asked again", labels=["model"]
        )
        for slot in self._slots:
            ready.add_metric([slot.name], float(slot.reason is None))
            if slot.model is not None:
                waiting.add_metric([slot.name], slot.model.scheduler.waiting)
                working.add_metric([slot.name], slot.model.scheduler.working)
                retries.add_metric([slot.name], slot.model.retries)
        yield from (ready, waiting, working, retries)
