"""What the baselines share: their protocols, the defense that only transforms images, and votes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key, Stream
from maskrestore.errors import ConfigError
from maskrestore.imaging.inputs import as_batch
from maskrestore.types import Classifier, Defense, Purification

__all__ = [
    "BaselineConfig",
    "Detection",
    "Detector",
    "DetectorConfig",
    "Transform",
    "TransformDefense",
    "check",
    "in_chunks",
    "majority",
    "one_by_one",
]

Transform = Callable[[Tensor, Key], Tensor]
"""``(B, C, H, W)`` images in [0, 1] and the operator's key -> images of the same shape in [0, 1]."""


class BaselineConfig(Protocol):
    """Settings of a baseline, a frozen dataclass, that know what to build from themselves."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, key: Key = 0) -> Defense:
        """Build the defense. key: the operator's secret; defenses without randomness do not use it."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a detector says about a batch of images."""

    scores: Tensor
    """``(B,)`` float64: higher is more suspicious."""
    queries: Tensor
    """``(B,)`` int64: how often the classifier was asked about each image."""


@runtime_checkable
class Detector(Protocol):
    """Tells triggered images from clean ones; does not purify."""

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score ``(B, C, H, W)`` images, each on its own, with hard labels of ``classifier`` only."""


class DetectorConfig(Protocol):
    """Settings of a detector, a frozen dataclass, that know what to build from themselves."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, key: Key = 0) -> Detector:
        """Build the detector. key: the operator's secret; detectors without randomness do not use it."""


class TransformDefense:
    """Answer with the label of the transformed image. Two queries per image, before and after."""

    def __init__(self, transform: Transform, *, key: Key = 0) -> None:
        self.transform = transform
        self.key = key

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Transform ``(B, C, H, W)`` images, each on its own, and label them. Raises InvalidImageError."""
        batch, ask = as_batch(images), as_classifier(classifier)
        purified = self.transform(batch, self.key)
        original = ask(batch)
        return Purification(
            images=purified,
            labels=ask(purified),
            original_labels=original,
            queries=torch.full_like(original, 2),
        )


def one_by_one(images: Tensor, key: Key, change: Callable[[Tensor, Stream], Tensor]) -> Tensor:
    """Change each image of ``(B, C, H, W)`` alone, with its own random numbers, and stack the results.

    Not only for the random numbers: vectorised powers, sums and matrix products may round an image differently in
    different company.
    """
    return torch.stack([change(image, Stream(key, image)) for image in images])


def in_chunks(
    images: object,
    classifier: Classifier,
    purify: Callable[[Tensor, Classifier], Purification],
    *,
    chunk_size: int,
) -> Purification:
    """Purify a few images at a time; that bounds memory and changes no result. Raises InvalidImageError."""
    ask = as_classifier(classifier)
    return Purification.concatenate([purify(chunk, ask) for chunk in as_batch(images).split(chunk_size)])


def majority(votes: Tensor, asked: Tensor | None = None) -> Tensor:
    """The most frequent label in each row; a tie goes to the largest of them.

    votes: ``(B, N)`` int64. asked: ``(B, N)`` bool, the votes that count; ``None`` for all. Returns ``(B,)``.
    """
    labels, index = votes.unique(return_inverse=True)
    weights = torch.ones_like(votes) if asked is None else asked.long()
    counts = torch.zeros(len(votes), len(labels), dtype=torch.int64).scatter_add_(1, index, weights)
    # argmax takes the first of equals, so look from the end.
    winner: Tensor = labels[len(labels) - 1 - counts.flip(1).argmax(dim=1)]
    return winner


def check(valid: bool, name: str, expected: str, actual: object) -> None:
    """Raise ConfigError unless ``valid``, for a setting that is not as ``expected``."""
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {actual!r}")
