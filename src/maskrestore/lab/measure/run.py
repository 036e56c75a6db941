"""Measure one defense on one victim, on a fixed choice of test images."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.jobs.partial_results import measurement_key
from maskrestore.lab.data.dataset import ImageDataset, images_at_once
from maskrestore.lab.measure.costs import MemoryMeter, counted_passes
from maskrestore.lab.measure.defenses import DEFENSES, DefenseUnderTest, VictimUnderTest, make_defense
from maskrestore.lab.measure.metrics import Metrics, measure
from maskrestore.lab.measure.predictions import PredictionLog
from maskrestore.lab.measure.record_files import RecordFile, record_name
from maskrestore.lab.measure.records import RECORD_VERSION, Cost, Record
from maskrestore.lab.measure.suspicions import SuspicionEntry, measure_suspicion
from maskrestore.runtime.digests import digest_of_json
from maskrestore.runtime.environment import Environment, current_environment

if TYPE_CHECKING:
    from maskrestore.lab.attacks.base import Attack

__all__ = [
    "DEFENSES",
    "EvaluationProgress",
    "choose_images",
    "evaluate",
    "make_defense",
    "triggered_images",
]

_CHUNK = 32
"""Most images per chunk."""
_HASHED = 64
"""Images whose pixels are hashed at once."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProgress:
    """The progress of a run, reported after each chunk of images."""

    done: int
    """Number of images done."""
    total: int
    """Number of images of the whole run."""
    seconds: float
    """Time for the images done, including earlier runs that this one resumes."""
    queries: float
    """Mean per image."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The clean or the triggered images of an evaluation."""

    name: str
    indices: list[int]
    labels: Tensor
    """``(N,)`` int64: the true labels. The defense never sees them."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The arguments of an evaluation."""

    dataset: ImageDataset
    attack: Attack | None
    victim: VictimUnderTest
    defense: DefenseUnderTest
    parts: list[_Part]
    seed: int


def evaluate(
    dataset: ImageDataset,
    attack: Attack | None,
    victim: VictimUnderTest,
    defense: DefenseUnderTest,
    *,
    clean_count: int = 500,
    triggered_count: int = 500,
    seed: int = 0,
    chunk_size: int | None = None,
    out: RecordFile[Record] | None = None,
    name: str | None = None,
    keep_existing: bool = False,
    known: Mapping[str, Record] = MappingProxyType({}),
    device: str | torch.device = "cpu",
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
) -> Record:
    """Measure CA, BA, ASR and the costs of ``defense`` on ``victim``.

    The defense gets the images and the classifier, nothing else.

    Args:
        dataset: a test split.
        attack: the attack of the triggered images, or ``None`` for clean images only.
        victim: the classifier.
        defense: the defense.
        clean_count: number of clean images.
        triggered_count: number of triggered images.
        seed: determines the choice of test images, the same for every attack and defense.
        chunk_size: images per chunk; ``None`` uses 32, and fewer for photographs. An interrupted run loses at most one
            chunk.
        out: file for the record. During the run the predictions are stored beside this file, and a repeated run with
            the same arguments and the same revision of the code resumes from them.
        name: of the record. The default is built from the arguments.
        keep_existing: if ``out`` has a record of the same evaluation, return it instead of measuring again.
        known: records by digest. A record of the same evaluation (same weights, settings and images) is copied
            instead of measuring again.
        device: where the networks run, for the record.
        progress: called after each chunk.

    Raises:
        ConfigError: there are fewer images than requested.
        DataError: ``out`` has an invalid record.

    Errors of the defense are passed on.
    """
    parts = _choose_parts(dataset, attack, clean_count, triggered_count, seed=seed)
    plan = _Plan(dataset=dataset, attack=attack, victim=victim, defense=defense, parts=parts, seed=seed)
    digest = _digest(plan)
    if name is None:
        name = record_name(dataset.name, attack.name if attack else "clean-model", defense.entry.name, digest=digest)
    if out is not None and keep_existing and (existing := out.get(name)) is not None and existing.digest == digest:
        return existing
    if digest in known:
        record = dataclasses.replace(known[digest], name=name)
        if out is not None:
            out.append(record)
        return record
    environment = current_environment(device)
    key = measurement_key(digest, environment, RECORD_VERSION)
    log = PredictionLog(None if out is None else out.log_path(name), key)
    memory = MemoryMeter(device)
    _predict(plan, log, chunk_size or 4 * images_at_once(dataset.images, _CHUNK // 4), progress)
    record = _record(plan, log, (name, digest), environment, memory)
    if out is not None:
        out.append(record)
        log.discard()
    return record


def choose_images(labels: Tensor, count: int, seed: int, eligible: Tensor | None = None) -> Tensor:
    """Return indices ``(count,)`` of test images: the first eligible ones of a permutation from ``seed``.

    labels: ``(N,)``. eligible: ``(N,)`` bool; ``None``: all images. Raises ConfigError when there are too few.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if eligible is not None:
        order = order[eligible[order]]
    if not 1 <= count <= len(order):
        raise ConfigError(f"{count} test images were requested; choose between 1 and {len(order)}")
    return order[:count]


def triggered_images(images: Tensor, attack: Attack) -> Tensor:
    """Add the trigger to ``(N, C, H, W)`` uint8 images. Returns float32 in [0, 1], rounded to 8 bits as in a file."""
    return (attack.apply(images.float() / 255).clamp(0, 1) * 255).round() / 255


def _choose_parts(
    dataset: ImageDataset, attack: Attack | None, clean_count: int, triggered_count: int, *, seed: int
) -> list[_Part]:
    def part(name: str, index: Tensor) -> _Part:
        return _Part(name=name, indices=index.tolist(), labels=dataset.labels[index])

    parts = [part("clean", choose_images(dataset.labels, clean_count, seed))]
    if attack is not None:
        eligible = attack.eligible(dataset.labels)
        parts.append(part("triggered", choose_images(dataset.labels, triggered_count, seed, eligible)))
    return parts


def _predict(plan: _Plan, log: PredictionLog, chunk_size: int, progress: Callable[[EvaluationProgress], None]) -> None:
    """Compute the predictions that ``log`` lacks, chunk by chunk."""
    total = sum(len(part.indices) for part in plan.parts)
    _report(log, total, progress)
    for part in plan.parts:
        pending = log.pending(part.name, part.indices)
        for start in range(0, len(pending), chunk_size):
            chunk = pending[start : start + chunk_size]
            raw = plan.dataset.images[chunk]
            attack = plan.attack if part.name == "triggered" else None
            images = raw.float() / 255 if attack is None else triggered_images(raw, attack)
            started = time.perf_counter()
            with counted_passes(plan.defense.defense) as counter:
                result = plan.defense.defense.purify(images, plan.victim.classifier)
            seconds = time.perf_counter() - started
            log.add(part.name, chunk, result, seconds, None if counter is None else counter.passes)
            _report(log, total, progress)


def _report(log: PredictionLog, total: int, progress: Callable[[EvaluationProgress], None]) -> None:
    queries = sum(row.queries for row in log) / max(1, len(log))
    progress(EvaluationProgress(done=len(log), total=total, seconds=log.seconds, queries=queries))


def _record(
    plan: _Plan, log: PredictionLog, named: tuple[str, str], environment: Environment, memory: MemoryMeter
) -> Record:
    """Build the record from the predictions. named: its name and its digest."""
    clean = plan.parts[0].indices
    kept = log.original_labels("clean", clean) == log.labels("clean", clean)
    return Record(
        name=named[0],
        digest=named[1],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=plan.dataset.name,
        clean_images=len(clean),
        triggered_images=sum(len(part.indices) for part in plan.parts[1:]),
        seed=plan.seed,
        attack=plan.attack.name if plan.attack else None,
        victim=plan.victim.entry,
        defense=plan.defense.entry,
        environment=environment,
        before=_metrics(plan, log.original_labels),
        after=_metrics(plan, log.labels),
        kept=int(kept.sum()),
        cost=_cost(plan, log, memory),
        suspicion=_suspicion(plan, log),
    )


def _metrics(plan: _Plan, labels: Callable[[str, list[int]], Tensor]) -> Metrics:
    clean = plan.parts[0]
    clean_labels = (labels("clean", clean.indices), clean.labels)
    if plan.attack is None:
        return measure(clean_labels)
    triggered = plan.parts[1]
    predicted = labels("triggered", triggered.indices)
    return measure(clean_labels, (predicted, triggered.labels, plan.attack.poisoned_label(triggered.labels)))


def _suspicion(plan: _Plan, log: PredictionLog) -> SuspicionEntry | None:
    clean, *triggered = (log.suspected(part.name, part.indices, part.labels) for part in plan.parts)
    return None if clean is None else measure_suspicion(clean, triggered[0] if triggered else None)


def _cost(plan: _Plan, log: PredictionLog, memory: MemoryMeter) -> Cost:
    queries = [row.queries for row in log]
    restored = [row.restored for row in log if row.restored is not None]
    return Cost(
        queries_mean=sum(queries) / len(queries),
        queries_max=max(queries),
        restored_mean=sum(restored) / len(restored) if restored else None,
        seconds=log.seconds,
        images_per_second=len(log) / max(log.seconds, 1e-9),
        passes_mean=None if log.passes is None else log.passes / len(log),
        peak_memory=memory.peak(),
        memory_scope=memory.scope,
        queries_median_clean=float(statistics.median(log.queries("clean", plan.parts[0].indices))),
        shared_restorations=plan.defense.shares_restorations,
    )


def _digest(plan: _Plan) -> str:
    """Return 16 hexadecimal digits that identify the arguments, including the images."""
    victim = dataclasses.asdict(plan.victim.entry)
    del victim["cross_trigger"]  # a measurement, not an argument; older records do not have it
    asked = [
        plan.dataset.name,
        plan.attack.name if plan.attack else None,
        plan.seed,
        [part.indices for part in plan.parts],
        victim,
        dataclasses.asdict(plan.defense.entry),
    ]

    def content() -> Iterator[bytes]:
        for part in plan.parts:
            for start in range(0, len(part.indices), _HASHED):
                yield plan.dataset.images[part.indices[start : start + _HASHED]].numpy().tobytes()
            yield part.labels.numpy().tobytes()

    return digest_of_json(asked, content())
