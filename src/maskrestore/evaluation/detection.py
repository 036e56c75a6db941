"""Measure detectors: how well their scores tell triggered images from clean ones."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.attacks.base import Attack
from maskrestore.baselines import DETECTORS, Detector
from maskrestore.data.dataset import ImageDataset
from maskrestore.defense.streams import Key, key_fingerprint
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.evaluation.defenses import VictimUnderTest
from maskrestore.evaluation.environment import Environment, current_environment
from maskrestore.evaluation.records import VictimEntry, read_json, write_text_atomically
from maskrestore.evaluation.run import choose_images, triggered_images

__all__ = [
    "DETECTION_VERSION",
    "Auroc",
    "DetectionRecord",
    "DetectorUnderTest",
    "auroc",
    "detect",
    "make_detector",
    "read_detection",
]

DETECTION_VERSION = 1
"""Raised when the meaning or the layout of such a record changes."""

_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Auroc:
    """The chance that a triggered image scores higher than a clean one (a tie counts half), with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class DetectionRecord:
    """One detector on one data set, victim and attack."""

    version: int = DETECTION_VERSION
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
    """Of the choice of test images."""
    environment: Environment
    auroc: Auroc
    queries_mean: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DetectorUnderTest:
    """A detector with what a record says about it."""

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
        config=json.loads(json.dumps(dataclasses.asdict(config))),  # as it will be read back
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
    chunk_size: int = 32,
    out: Path | None = None,
    device: str | torch.device = "cpu",
) -> DetectionRecord:
    """Score clean and triggered test images, the same ones as ``evaluate`` takes, and compare.

    out: file for the record. device: where the networks are, for the record. Raises ConfigError when there are fewer
    images than asked for.
    """
    chosen = choose_images(dataset.labels, clean_count, seed)
    poisoned = choose_images(dataset.labels, triggered_count, seed, attack.eligible(dataset.labels))
    started = time.perf_counter()
    parts = [
        detector.detector.score(images, victim.classifier)
        for images in (
            *(dataset.images[rows].float() / 255 for rows in chosen.split(chunk_size)),
            *(triggered_images(dataset.images[rows], attack) for rows in poisoned.split(chunk_size)),
        )
    ]
    seconds = time.perf_counter() - started
    scores = torch.cat([part.scores for part in parts])
    record = DetectionRecord(
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
        environment=current_environment(device),
        auroc=auroc(scores[:clean_count], scores[clean_count:]),
        queries_mean=float(torch.cat([part.queries for part in parts]).double().mean()),
        seconds=seconds,
    )
    if out is not None:
        write_text_atomically(out, json.dumps(dataclasses.asdict(record), indent=2) + "\n")
    return record


def auroc(clean: Tensor, triggered: Tensor) -> Auroc:
    """Area under the ROC curve of scores ``(N,)`` of clean and ``(M,)`` of triggered images; higher is suspicious.

    Source of the interval: Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 143 (1982);
    clipped to [0, 1]. Raises ConfigError when there are no scores or one is not a number.
    """
    for scores in (clean, triggered):
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise ConfigError(f"expected scores (N,) of at least one image, none NaN, got shape {tuple(scores.shape)}")
    higher = (triggered[:, None] > clean).double() + 0.5 * (triggered[:, None] == clean).double()  # (M, N)
    area = float(higher.mean())
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (len(triggered) - 1) * (one - area**2) + (len(clean) - 1) * (two - area**2)
    half = _Z95 * math.sqrt(max(spread, 0.0) / (len(clean) * len(triggered)))
    return Auroc(value=area, low=max(0.0, area - half), high=min(1.0, area + half))


def read_detection(path: Path) -> DetectionRecord:
    """Read and check a record. Raises DataError that names the file and the entry that is wrong."""
    return read_json(path, DetectionRecord, DETECTION_VERSION)


def read_detections(paths: Iterable[Path]) -> list[DetectionRecord]:
    """Read those of ``paths`` that exist."""
    return [read_detection(path) for path in paths if path.exists()]
