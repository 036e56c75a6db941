"""STRIP: a detector. The label of a triggered image stays the same when other pictures are added to it."""

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
from maskrestore.lab.data.dead_leaves import dead_leaves
from maskrestore.types import Classifier

__all__ = ["Strip", "StripConfig", "label_entropy"]

_RENDERED_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class StripConfig:
    """Settings of :class:`Strip`. Raises ConfigError for fewer than one overlay."""

    overlays: int = 100
    """N: number of pictures added to each image, one at a time (``n_sample`` in the authors' code)."""

    def __post_init__(self) -> None:
        check(self.overlays >= 1, "overlays", "at least 1", self.overlays)

    def build(self, key: Key = 0, *, pictures: object = None) -> Strip:
        """Build the detector. ``key`` determines the overlays of each image; pictures: see :class:`Strip`."""
        return Strip(self, pictures=pictures, key=key)


class Strip:
    """Adds other pictures to an image. The score is minus the entropy of the resulting labels, in bits.

    ``overlays`` queries per image.

    Source: Gao et al., STRIP, ACSAC 2019; github.com/garrisongys/STRIP.
    Departures: the original averages the entropies of the class probabilities under each overlay. A black box returns
    hard labels only, so the score here is the entropy of the labels under all overlays. The sum of image and overlay
    is clipped to [0, 1], because a classifier takes only such images. In the original the overlays are clean images of
    the task. In the blind setting there are none, so by default the overlays are rendered (:func:`dead_leaves`);
    ``pictures`` replaces them.
    """

    def __init__(
        self, config: StripConfig | None = None, *, pictures: object = None, key: Key = 0, chunk_size: int = 16
    ) -> None:
        """pictures: the overlays, anything that :func:`as_batch` accepts; resized to the images. None: rendered.

        Each image gets a random choice of them. chunk_size: images processed at a time, to bound memory; results do
        not depend on it. Raises ConfigError when there are fewer pictures than overlays, and InvalidImageError for
        invalid pictures.
        """
        self.config = StripConfig() if config is None else config
        count = self.config.overlays
        self.pictures = dead_leaves(count, _RENDERED_SIZE, key) if pictures is None else as_batch(pictures)
        if len(self.pictures) < count:
            raise ConfigError(
                f"need at least {count} overlay pictures, got {len(self.pictures)}; give more or lower overlays"
            )
        self.key = key
        self.chunk_size = chunk_size

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score each of the ``(B, C, H, W)`` images independently, at most 0. Raises InvalidImageError."""
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
        """Return the image plus each of its N overlays, clipped to [0, 1]. ``(C, H, W)`` -> ``(N, C, H, W)``."""
        order = Stream(self.key, image).uniform(0, shape=(len(pictures),)).argsort(stable=True)
        return (image + pictures[order[: self.config.overlays]]).clamp(0, 1)


def label_entropy(votes: Tensor) -> Tensor:
    """Return the entropy of the labels in each row, in bits. ``(B, N)`` int64 -> ``(B,)`` float64 from 0 to log2 N."""

    def entropy(row: list[int]) -> float:
        # Sorted, so that the floating-point sum depends on the counts only, not on the order of the labels.
        shares = sorted(count / len(row) for count in Counter(row).values())
        return abs(sum(share * math.log2(share) for share in shares))

    return torch.tensor([entropy(row) for row in votes.tolist()], dtype=torch.float64)


def _fitted(pictures: Tensor, images: Tensor) -> Tensor:
    """Return the pictures with the size and the number of channels of the images ``(B, C, H, W)``."""
    fitted = resize(pictures, *images.shape[-2:]).clamp(0, 1)
    return fitted.mean(dim=1, keepdim=True) if images.shape[1] == 1 else fitted.expand(-1, images.shape[1], -1, -1)
