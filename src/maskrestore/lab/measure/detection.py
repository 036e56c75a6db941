"""Measure detectors: how well their scores separate triggered from clean images."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, key_fingerprint
from maskrestore.errors import UnknownNameError
from maskrestore.jobs.partial_results import PartialResults, measurement_key
from maskrestore.lab.attacks.base import Attack
from maskrestore.lab.baselines import DETECTORS, Detection, Detector
from maskrestore.lab.data.dataset import ImageDataset, images_at_once
from maskrestore.lab.measure.costs import MemoryMeter
from maskrestore.lab.measure.defenses import VictimUnderTest
from maskrestore.lab.measure.record_files import RecordFile, record_name
from maskrestore.lab.measure.records import VictimEntry
from maskrestore.lab.measure.run import EvaluationProgress, choose_images, triggered_images
from maskrestore.runtime.digests import digest_of_json
from maskrestore.runtime.environment import Environment, current_environment
from maskrestore.statistics import Auroc, auroc

__all__ = [
    "DETECTION_VERSION",
    "DetectionRecord",
    "DetectorUnderTest",
    "detect",
    "detection_records",
    "make_detector",
]

DETECTION_VERSION = 2
"""Schema version, incremented when the meaning or the layout of a detection record changes."""


_CHUNK = 32
"""Most images per chunk."""
_HASHED = 64
"""Images whose pixels are hashed at once."""


@dataclass(frozen=True, kw_only=True)
class DetectionRecord:
    """The result of one detector on one data set, victim and attack."""

    version: int = DETECTION_VERSION
    name: str
    """Identifies the record in its file."""
    created: str
    """UTC, ISO 8601."""
    dataset: str
    attack: str
    victim: VictimEntry
    detector: str
    config: dict[str, Any]
    key_fingerprint: str
    clean_images: int
    triggered_images: int
    seed: int
    """Seed of the choice of test images."""
    environment: Environment
    auroc: Auroc
    queries_mean: float
    """Per image."""
    seconds: float
    """Over all images."""
    peak_memory: int | None = None
    """As in ``Cost``; ``None`` in old records."""
    memory_scope: str | None = None
    """As in ``Cost``."""


@dataclass(frozen=True, kw_only=True)
class DetectorUnderTest:
    """A detector, with its entries for a record."""

    detector: Detector
    name: str
    config: dict[str, Any]
    key_fingerprint: str


def make_detector(name: str, *, key: Key = 0) -> DetectorUnderTest:
    """Build a detector of ``DETECTORS``. Raises UnknownNameError."""
    if name not in DETECTORS:
        raise UnknownNameError("detector", name, DETECTORS)
    config = DETECTORS[name]
    return DetectorUnderTest(
        detector=config.build(key),
        name=name,
        config=json.loads(json.dumps(dataclasses.asdict(config))),  # as read from a file: tuples become lists
        key_fingerprint=key_fingerprint(key),
    )


def detect(
    dataset: ImageDataset,
    attack: Attack,
    victim: VictimUnderTest,
    detector: DetectorUnderTest,
    *,
    clean_count: int = 500,
    triggered_count: int = 500,
    seed: int = 0,
    chunk_size: int | None = None,
    out: RecordFile[DetectionRecord] | None = None,
    name: str | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[EvaluationProgress], None] = lambda _: None,
) -> DetectionRecord:
    """Score clean and triggered test images and compute the AUROC. ``evaluate`` uses the same images.

    chunk_size: images per chunk; ``None`` uses 32, and fewer for photographs. An interrupted run loses at most one
    chunk. out: file for the record. During the run
    the scores are stored beside this file, and a repeated run with the same arguments and the same revision of the
    code resumes from them. name: of the record; the default is built from the arguments. device: where the networks
    run, for the record. progress: called after each chunk. Raises ConfigError when there are too few images, and what
    the detector raises.
    """
    chosen = {
        "clean": choose_images(dataset.labels, clean_count, seed),
        "triggered": choose_images(dataset.labels, triggered_count, seed, attack.eligible(dataset.labels)),
    }
    plan = _Plan(dataset=dataset, attack=attack, victim=victim, detector=detector, chosen=chosen)
    environment, memory = current_environment(device), MemoryMeter(device)
    digest = _digest(plan)
    name = record_name(dataset.name, attack.name, detector.name, digest=digest) if name is None else name
    key = measurement_key(digest, environment, DETECTION_VERSION)
    log = _ScoreLog(None if out is None else out.log_path(name), key)
    _score(plan, log, chunk_size or 4 * images_at_once(dataset.images, _CHUNK // 4), progress)
    record = DetectionRecord(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=dataset.name,
        attack=attack.name,
        victim=victim.entry,
        detector=detector.name,
        config=detector.config,
        key_fingerprint=detector.key_fingerprint,
        clean_images=clean_count,
        triggered_images=triggered_count,
        seed=seed,
        environment=environment,
        auroc=auroc(*(log.scores(part) for part in chosen)),
        queries_mean=log.queries / len(log),
        seconds=log.seconds,
        peak_memory=memory.peak(),
        memory_scope=memory.scope,
    )
    if out is not None:
        out.append(record)
        log.discard()
    return record


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The arguments of a detection."""

    dataset: ImageDataset
    attack: Attack
    victim: VictimUnderTest
    detector: DetectorUnderTest
    chosen: dict[str, Tensor]
    """Indices of the images of each part, "clean" and "triggered"."""


class _ScoreLog(PartialResults):
    """Scores of the images of each part, in the order of ``_Plan.chosen``."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._scores: dict[str, list[float]] = {"clean": [], "triggered": []}
        self.queries = 0
        super().__init__(path, key)

    def __len__(self) -> int:
        return sum(map(len, self._scores.values()))

    def scores(self, part: str) -> Tensor:
        """Return the scores of a part so far: ``(N,)`` float64."""
        return torch.tensor(self._scores[part], dtype=torch.float64)

    def add(self, part: str, result: Detection, seconds: float) -> None:
        """Add the scores of the next images of a part, which took ``seconds``."""
        queries = int(result.queries.sum())
        self._add({"part": part, "scores": result.scores.tolist(), "queries": queries, "seconds": seconds})

    def _take(self, line: dict[str, Any]) -> None:
        part, scores, queries, seconds = (line[name] for name in ("part", "scores", "queries", "seconds"))
        self._scores[part] += scores
        self.queries += queries
        self.seconds += seconds


def _score(plan: _Plan, log: _ScoreLog, chunk_size: int, progress: Callable[[EvaluationProgress], None]) -> None:
    """Compute the scores that ``log`` lacks, chunk by chunk."""

    def report() -> None:
        queries = log.queries / max(1, len(log))
        total = sum(map(len, plan.chosen.values()))
        progress(EvaluationProgress(done=len(log), total=total, seconds=log.seconds, queries=queries))

    report()
    for part, rows in plan.chosen.items():
        for chunk in rows[len(log.scores(part)) :].split(chunk_size):
            if not len(chunk):
                continue  # splitting an empty tensor gives one empty chunk
            raw = plan.dataset.images[chunk]
            images = triggered_images(raw, plan.attack) if part == "triggered" else raw.float() / 255
            started = time.perf_counter()
            result = plan.detector.detector.score(images, plan.victim.classifier)
            log.add(part, result, time.perf_counter() - started)
            report()


def _digest(plan: _Plan) -> str:
    """Return 16 hexadecimal digits that identify the arguments, including the images."""
    asked = [
        *(plan.dataset.name, plan.attack.name, dataclasses.asdict(plan.victim.entry)),
        *(plan.detector.name, plan.detector.config, plan.detector.key_fingerprint),
        {part: rows.tolist() for part, rows in plan.chosen.items()},
    ]
    parts = (part for rows in plan.chosen.values() for part in rows.split(_HASHED))
    return digest_of_json(asked, (plan.dataset.images[part].numpy().tobytes() for part in parts))


def detection_records(path: Path) -> RecordFile[DetectionRecord]:
    """Return the file of detection records: ``path`` itself if it ends with ``.jsonl``, else ``detections.jsonl`` in
    that folder."""
    return RecordFile(path if path.suffix == ".jsonl" else path / "detections.jsonl", DetectionRecord)
