"""What detectors by growing corruption share: the level at which the label of an image changes first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.types import Classifier

__all__ = ["Corruption", "first_changes"]

Corruption = Callable[[Tensor, Stream, int], Tensor]
"""An image ``(C, H, W)``, its random stream and a level from 0 -> an image of the same shape, in [0, 1]."""


def first_changes(
    images: Tensor, ask: Classifier, corruptions: list[Corruption], *, levels: int, key: Key, chunk_size: int = 16
) -> tuple[Tensor, Tensor]:
    """Return for each image and corruption the first level, from 1, with another label than the original's.

    images: ``(B, C, H, W)``. The first result is ``(B, corruptions)`` int64 from 1 to ``levels + 1``, which means
    never. Higher levels are not asked once the label has changed. The second result is ``(B,)`` int64: queries, with
    that of the original. chunk_size: images at a time, to bound memory; results do not depend on it.
    """
    parts = [_of_chunk(chunk, ask, corruptions, levels, key) for chunk in images.split(chunk_size)]
    return torch.cat([found for found, _ in parts]), torch.cat([queries for _, queries in parts])


def _of_chunk(
    images: Tensor, ask: Classifier, corruptions: list[Corruption], levels: int, key: Key
) -> tuple[Tensor, Tensor]:
    original = ask(images)
    streams = [Stream(key, image) for image in images]
    found = torch.full((len(images), len(corruptions)), levels + 1)
    queries = torch.ones(len(images), dtype=torch.int64)
    for level in range(levels):
        rows, kinds = (found > levels).nonzero(as_tuple=True)
        if not len(rows):
            break
        pairs = zip(rows.tolist(), kinds.tolist(), strict=True)
        corrupted = torch.stack([corruptions[kind](images[row], streams[row], level) for row, kind in pairs])
        changed = ask(corrupted) != original[rows]
        found[rows[changed], kinds[changed]] = level + 1
        queries += rows.bincount(minlength=len(images))
    return found, queries
