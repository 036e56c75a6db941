"""A labelled image data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from maskrestore.errors import DataError
from maskrestore.imaging.sizes import is_photograph
from maskrestore.lab.data.specs import DatasetSpec
from maskrestore.lab.data.stored import StoredImages

__all__ = ["ImageDataset", "images_at_once", "part_for_choices", "replacing"]

_PIXELS = 2**17
"""Pixels of photographs that a network takes at once: 2 of 224 x 224. Intermediate results then stay in the caches of a
processor, on which larger batches are up to twice as slow. Measured with EfficientNet-Lite0."""


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images and their labels."""

    name: str
    """Key in ``DATASETS``."""
    images: Tensor | StoredImages
    """``(N, 3, H, W)`` uint8: in memory, or photographs that are decoded when they are indexed."""
    labels: Tensor
    """``(N,)`` int64: indices into ``class_names``."""
    class_names: tuple[str, ...]
    """Names of the classes; the label is the index."""

    def named(self, text: str) -> ImageDataset:
        """Return the photographs whose path contains ``text``, e.g. those from another data set's validation split.

        The name of the data set gets the text in brackets. Raises DataError when there is none.
        """
        paths = self.images.paths() if isinstance(self.images, StoredImages) else []
        rows = torch.tensor([row for row, path in enumerate(paths) if text in path], dtype=torch.int64)
        if not len(rows):
            raise DataError(
                f"no picture of {self.name} has {text!r} in its path; the first is {(paths or ['unnamed'])[0]}"
            )
        name = f"{self.name}[{text}]"
        return replace(self, name=name, images=_rows(self.images, rows), labels=self.labels[rows])

    def sample(self, most: int, seed: int) -> ImageDataset:
        """Return at most ``most`` images, drawn at random, in their order."""
        rows = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))[:most].sort().values
        return replace(self, images=_rows(self.images, rows), labels=self.labels[rows])


def part_for_choices(training: ImageDataset, spec: DatasetSpec, split: str) -> ImageDataset:
    """A split of a data set for choices, whose both splits are parts of a training split: see ``DatasetSpec``."""
    order = np.random.default_rng(spec.train_count).permutation(len(training.labels))
    chosen = order[: spec.train_count] if split == "train" else order[spec.train_count :]
    rows = torch.from_numpy(np.sort(chosen))
    return replace(training, name=spec.name, images=_rows(training.images, rows), labels=training.labels[rows])


def _rows(images: Tensor | StoredImages, rows: Tensor) -> Tensor | StoredImages:
    return images.chosen(rows) if isinstance(images, StoredImages) else images[rows]


def images_at_once(images: Tensor | StoredImages, most: int) -> int:
    """Return how many of ``images`` ``(N, C, H, W)`` a network takes at once: ``most``, or fewer photographs."""
    height, width = images.shape[-2:]
    if not is_photograph(height, width):
        return most
    return max(1, min(most, _PIXELS // (height * width)))


def replacing(images: Tensor | StoredImages, rows: Tensor, others: Tensor) -> Tensor | StoredImages:
    """Return ``images`` ``(N, C, H, W)`` with ``others`` ``(K, C, H, W)`` in the places ``rows`` ``(K,)``."""
    if isinstance(images, StoredImages):
        return images.replacing(rows, others)
    changed = images.clone()
    changed[rows] = others
    return changed
