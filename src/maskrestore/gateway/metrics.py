"""Metrics for Prometheus. None of them names a picture or a key."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, Metric, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from maskrestore.gateway.board import Report
from maskrestore.gateway.models import ModelSlot, ShieldedModel
from maskrestore.gateway.records import Decision, ModelStatus
from maskrestore.runtime.environment import own_version

__all__ = ["Metrics", "count_for_worker"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of a gateway."""

    def __init__(self, folder: Path | None = None, replica: str | None = None) -> None:
        """folder: where several workers keep their counts; see :func:`count_for_worker`. replica: without a folder,
        the name of this one among others, which tell their counts with their reports.
        """
        self._folder = None if folder is None else str(folder)
        self._replica = replica if folder is None else None
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Answered requests", "route", "status")
        self._request_seconds = self._histogram("request_seconds", "From the first byte to the answer", "route")
        self._pictures = self._counter(
            "pictures", "Decisions, by what became of the picture", "model", "tenant", "outcome"
        )
        self._doubtful = self._counter(
            "doubtful", "Answers in doubt, by what was answered", "model", "tenant", "answer"
        )
        self._queries = self._counter("queries", "Questions to the model", "model", "tenant")
        self._picture_seconds = self._histogram("picture_seconds", "From acceptance to result", "model")
        self._waited = self._histogram("queue_seconds", "In the queue", "model")
        self._refused = self._counter("refused", "Requests that were not begun", "status")
        self._errors = self._counter("unhandled_errors", "Errors inside the gateway")
        self._retries = self._counter("upstream_retries", "Questions that were asked again", "model")
        self._known_retries: WeakKeyDictionary[ShieldedModel, int] = WeakKeyDictionary()

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
        if one.abstained:
            outcome = "abstained"
        elif one.label is None:
            outcome = "failed"
        elif not one.shielded:
            outcome = "unshielded"
        self._pictures.labels(one.model, one.tenant, outcome).inc()
        if one.doubtful:
            self._doubtful.labels(one.model, one.tenant, _answer_in_doubt(one)).inc()
        self._queries.labels(one.model, one.tenant).inc(one.queries or 0)
        self._picture_seconds.labels(one.model).observe(one.seconds)
        self._waited.labels(one.model).observe(one.waited)

    def retries(self, slots: Iterable[ModelSlot]) -> None:
        """Count the questions to upstreams that were asked again since the last call."""
        for slot in slots:
            if slot.model is not None:
                now = slot.model.retries
                self._retries.labels(slot.name).inc(now - self._known_retries.get(slot.model, 0))
                self._known_retries[slot.model] = now

    def counts(self) -> list[Metric]:
        """What this replica has counted, for its report; nothing if it is alone."""
        return [] if self._replica is None else [_named(one, self._replica) for one in self._registry.collect()]

    def text(self, models: Sequence[ModelStatus], others: Iterable[Report] = ()) -> bytes:
        """All of them in Prometheus' text format, with how models are now. others: reports of other replicas."""
        now = CollectorRegistry()
        now.register(_Now(models))
        Info("maskrestore_build", "Version", registry=now).info({"version": own_version()})
        counted = self._registry
        if self._folder is not None:
            counted = CollectorRegistry()
            MultiProcessCollector(counted, self._folder)  # type: ignore[no-untyped-call]
        elif self._replica is not None:
            counted = CollectorRegistry()
            counted.register(_OfReplicas([self.counts(), *(one.counts for one in others)]))
        return generate_latest(counted) + generate_latest(now)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"maskrestore_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, *labels: str) -> Histogram:
        return Histogram(f"maskrestore_{name}", words, labels, buckets=_SECONDS, registry=self._registry)


class _Now(Collector):
    """How models are at the moment."""

    def __init__(self, models: Sequence[ModelStatus]) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        ready = GaugeMetricFamily("maskrestore_ready", "Whether the model is ready", labels=["model"])
        waiting = GaugeMetricFamily("maskrestore_waiting_pictures", "Pictures in the queue", labels=["model"])
        working = GaugeMetricFamily("maskrestore_working_pictures", "Pictures that are purified", labels=["model"])
        for one in self._models:
            ready.add_metric([one.name], float(one.ready))
            waiting.add_metric([one.name], one.waiting)
            working.add_metric([one.name], one.working)
        yield from (ready, waiting, working)


class _OfReplicas(Collector):
    """The counts of several replicas, each with its name."""

    def __init__(self, counts: Sequence[Sequence[Metric]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        together: dict[str, Metric] = {}
        for one in itertools.chain.from_iterable(self._counts):
            known = together.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            known.samples.extend(one.samples)
        yield from together.values()


def _answer_in_doubt(one: Decision) -> str:
    if one.abstained:
        return "none"
    return "purified" if one.label == one.purified_label else "original"


def _named(metric: Metric, replica: str) -> Metric:
    named = Metric(metric.name, metric.documentation, metric.type)
    named.samples = [one._replace(labels={**one.labels, "replica": replica}) for one in metric.samples]
    return named


def count_for_worker(worker: int, folder: Path) -> None:
    """Let a worker keep its counts in files of a folder, where other workers read them. Call it before ``Metrics``.

    They are named by the worker's number, not by its process: what replaces it goes on counting where it ended.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
