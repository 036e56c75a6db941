"""STRIP: a trigger's label survives other pictures laid over the image."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key, Stream
from maskrestore.errors import ConfigError
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.base import Detection, check
from maskrestore.types import Classifier

__all__ = ["Strip", "StripConfig", "dead_leaves", "label_entropy"]

_RENDERED_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class StripConfig:
    """Settings of :class:`Strip`."""

    overlays: int = 100
    """N: pictures laid over each image, one at a time (``n_sample`` of the authors' code)."""

    def __post_init__(self) -> None:
        check(self.overlays >= 1, "overlays", "at least 1", self.overlays)

    def build(self, key: Key = 0, *, pictures: object = None) -> Strip:
        """Build the detector; ``key`` decides which pictures an image gets. pictures: see :class:`Strip`."""
        return Strip(self, pictures=pictures, key=key)


class Strip:
    """Add other pictures to an image and see whether the label varies: minus the entropy of the labels, in bits.

    Asks ``overlays`` times per image.

    Source: Gao et al., STRIP, ACSAC 2019; github.com/garrisongys/STRIP.
    Departures: hard labels. The original averages the entropies of the probabilities under each overlay, which a
    black box does not give; the entropy of the labels under all of them is what is left of it. The sum of image and
    overlay is clipped to [0, 1], as in an 8-bit image, because nothing else may be sent to the black box. The overlays
    are clean images of the task in the original; a blind user has none, so unless some are given as ``pictures`` they
    are rendered (:func:`dead_leaves`).
    """

    def __init__(
        self, config: StripConfig | None = None, *, pictures: object = None, key: Key = 0, chunk_size: int = 16
    ) -> None:
        """Raises ConfigError when there are fewer pictures than overlays.

        pictures: what to lay over, anything :func:`as_batch` takes; resized to the image, each image gets its own
        choice. chunk_size: images worked on at a time; it bounds memory and changes no result.
        """
        self.config = StripConfig() if config is None else config
        count = self.config.overlays
        self.pictures = dead_leaves(count, _RENDERED_SIZE, key) if pictures is None else as_batch(pictures)
        if len(self.pictures) < count:
            raise ConfigError(f"need {count} pictures to lay over, got {len(self.pictures)}; give more or set overlays")
        self.key = key
        self.chunk_size = chunk_size

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Scores ``(B,)``, 0 at most, of ``(B, C, H, W)`` images, each on its own. Raises InvalidImageError."""
        batch, ask = as_batch(images), as_classifier(classifier)
        pictures = _fitted(self.pictures, batch)
        votes = []
        for chunk in batch.split(self.chunk_size):
            mixed = torch.cat([self._mixed(image, pictures) for image in chunk])  # (B N, C, H, W)
            votes.append(ask(mixed).view(len(chunk), -1))
        return Detection(
            scores=-label_entropy(torch.cat(votes)),
            queries=torch.full((len(batch),), self.config.overlays),
        )

    def _mixed(self, image: Tensor, pictures: Tensor) -> Tensor:
        """``(C, H, W)`` -> ``(N, C, H, W)``: the image plus each of its overlays."""
        order = Stream(self.key, image).uniform(0, shape=(len(pictures),)).argsort(stable=True)
        return (image + pictures[order[: self.config.overlays]]).clamp(0, 1)


def label_entropy(votes: Tensor) -> Tensor:
    """Entropy in bits of the labels in each row. ``(B, N)`` int64 -> ``(B,)`` float64 from 0 to log2 N."""

    def entropy(row: list[int]) -> float:
        # Sorted, so that equal counts give equal bits.
        shares = sorted(count / len(row) for count in Counter(row).values())
        return abs(sum(share * math.log2(share) for share in shares))

    return torch.tensor([entropy(row) for row in votes.tolist()], dtype=torch.float64)


def dead_leaves(count: int, size: int, key: Key, *, leaves: int = 64) -> Tensor:
    """Render pictures: discs of random place, size and colour that hide each other.

    Edges and sizes of objects as in photographs, nothing else of them. Returns ``(count, 3, size, size)`` in [0, 1].
    Source: Lee, Mumford and Huang, Occlusion Models for Natural Images, 2001, with sizes uniform in their logarithm.
    """
    stream = Stream(key, torch.zeros(1, 1, 1))
    places, radii, colours = (
        stream.uniform(path, shape=(leaves, count, numbers)).view(leaves, count, numbers, 1, 1)
        for path, numbers in enumerate((2, 1, 3))
    )
    pixel = (torch.arange(size) + 0.5) / size
    pictures = stream.uniform(3, shape=(count, 3, 1, 1)).expand(-1, -1, size, size)
    for place, radius, colour in zip(places, radii, colours, strict=True):  # each of shape (count, ., 1, 1)
        down, right = pixel.unsqueeze(1) - place[:, :1], pixel - place[:, 1:]
        inside = down.square() + right.square() < (0.03 * 16**radius).square()  # radii of 3 to 48 % of the side
        pictures = torch.where(inside, colour, pictures)
    return pictures


def _fitted(pictures: Tensor, images: Tensor) -> Tensor:
    """The pictures in the size and with the channels of the images."""
    fitted = resize(pictures, *images.shape[-2:]).clamp(0, 1)
    return fitted.mean(dim=1, keepdim=True) if images.shape[1] == 1 else fitted.expand(-1, images.shape[1], -1, -1)
