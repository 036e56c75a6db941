"""What the baselines share: protocols, the defense by image transformation, majority votes, checks of settings."""

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
"""``(B, C, H, W)`` images in [0, 1] and the operator's secret key -> images of the same shape in [0, 1]."""


class BaselineConfig(Protocol):
    """The settings of a baseline defense: a frozen dataclass that builds the defense."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, key: Key = 0) -> Defense:
        """Build the defense. key: the operator's secret; deterministic defenses ignore it."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """The result of a detector for a batch of images."""

    scores: Tensor
    """``(B,)`` float64: higher is more suspicious."""
    queries: Tensor
    """``(B,)`` int64: number of queries to the classifier for each image."""


@runtime_checkable
class Detector(Protocol):
    """Scores how suspicious an image is. It does not purify."""

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score each of the ``(B, C, H, W)`` images independently, from hard labels of ``classifier`` only."""


class DetectorConfig(Protocol):
    """The settings of a detector: a frozen dataclass that builds the detector."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, key: Key = 0) -> Detector:
        """Build the detector. key: the operator's secret; deterministic detectors ignore it."""


class TransformDefense:
    """Returns the label of the transformed image. Two queries per image: the original and the transformed one."""

    def __init__(self, transform: Transform, *, key: Key = 0) -> None:
        self.transform = transform
        self.key = key

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Transform each of the ``(B, C, H, W)`` images in [0, 1] independently and label it.

        Raises InvalidImageError for images that ``as_batch`` does not accept.
        """
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
    """Apply ``change`` to each image ``(C, H, W)`` with its own random stream and stack to ``(B, C, H, W)``.

    Images are processed one at a time because vectorised powers, sums and matrix products may round differently
    depending on the batch.
    """
    return torch.stack([change(image, Stream(key, image)) for image in images])


def in_chunks(
    images: object,
    classifier: Classifier,
    purify: Callable[[Tensor, Classifier], Purification],
    *,
    chunk_size: int,
) -> Purification:
    """Purify ``chunk_size`` images at a time to bound memory. The results do not depend on it.

    Raises InvalidImageError for images that ``as_batch`` does not accept.
    """
    ask = as_classifier(classifier)
    return Purification.concatenate([purify(chunk, ask) for chunk in as_batch(images).split(chunk_size)])


def majority(votes: Tensor, asked: Tensor | None = None) -> Tensor:
    """Return ``(B,)`` the most frequent label of each row; of equally frequent labels, the largest.

    votes: ``(B, N)`` int64. asked: ``(B, N)`` bool, True for the votes that count; ``None`` counts all.
    """
    labels, index = votes.unique(return_inverse=True)
    weights = torch.ones_like(votes) if asked is None else asked.long()
    counts = torch.zeros(len(votes), len(labels), dtype=torch.int64).scatter_add_(1, index, weights)
    # argmax returns the first of equal counts; flip, so that this is the largest label.
    winner: Tensor = labels[len(labels) - 1 - counts.flip(1).argmax(dim=1)]
    return winner


def check(valid: bool, name: str, expected: str, actual: object) -> None:
    """Raises ConfigError with the name, the expected and the actual value of a setting unless ``valid``."""
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {actual!r}")
