"""How many images are purified at a time. No other module decides this.

A batch is what a caller passes in. A chunk is the part of a stream that is purified at a time. A cohort is the images
of a chunk that have one size; they share their rounds. A micro-batch is what a network gets at a time.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Budget
from maskrestore.defense.pipeline import Pipeline
from maskrestore.errors import QueryBudgetError
from maskrestore.types import StreamResult

__all__ = ["ON_CPU", "ON_GPU", "Limits", "in_order", "purify_chunk", "read_chunks"]

Chunk = list[tuple[Hashable, Tensor | Exception]]
"""Images that are purified together: each an id and ``(C, H, W)``, or an id and the error of an invalid image."""


@dataclass(frozen=True)
class Limits:
    """Upper limits that bound memory."""

    images: int
    """Images in the pipeline at a time."""
    pixels: int | None
    """Pixels of these images; a larger image is purified alone. ``None``: no limit."""
    masked_pixels: int
    """Pixels of images whose random masks are all restored in one call."""


ON_CPU = Limits(images=64, pixels=2**19, masked_pixels=2**19)
ON_GPU = Limits(images=256, pixels=256 * 224**2, masked_pixels=64 * 224**2)
"""Larger, because the time that a GPU waits for the host between two rounds does not depend on the number of images."""


def read_chunks(
    images: Iterable[tuple[Hashable, Tensor | Exception]], limits: Limits, budget: Budget, max_queries: int
) -> Iterator[Chunk]:
    """Read images in chunks that respect the limits and the rest of the budget.

    max_queries: the most queries for an image. If the budget does not suffice for a single image, the chunk holds a
    QueryBudgetError in its place. A chunk must be finished before the next one is read, since the budget is checked
    when a chunk is read.
    """
    chunk: Chunk = []
    pixels = 0
    for one, image in images:
        size = image.shape[-2] * image.shape[-1] if isinstance(image, Tensor) else 0
        crowded = len(chunk) >= limits.images or (limits.pixels is not None and pixels + size > limits.pixels)
        asked = sum(isinstance(other, Tensor) for _, other in chunk) + isinstance(image, Tensor)
        if chunk and (crowded or not budget.allows(asked * max_queries)):
            yield chunk
            chunk, pixels = [], 0
        # An invalid image needs no query.
        fits = isinstance(image, Exception) or budget.allows(max_queries)
        chunk.append((one, image if fits else over_budget(budget, max_queries)))
        pixels += size
    if chunk:
        yield chunk


def purify_chunk(chunk: Chunk, pipeline: Pipeline) -> Iterator[tuple[int, StreamResult]]:
    """Purify a chunk, images of one size together; yields each result with its place in the chunk, once finished."""
    by_size: dict[torch.Size, list[int]] = defaultdict(list)
    for place, (_, image) in enumerate(chunk):
        if isinstance(image, Tensor):
            by_size[image.shape].append(place)
        else:
            yield place, StreamResult(id=chunk[place][0], error=image)
    for places in by_size.values():
        images = [image for _, image in (chunk[place] for place in places) if isinstance(image, Tensor)]
        # A large image comes alone, and is not copied.
        pipeline.submit(places, torch.stack(images) if len(images) > 1 else images[0].unsqueeze(0))
    while len(pipeline):
        for found in pipeline.step():
            assert isinstance(found.id, int)
            yield found.id, dataclasses.replace(found, id=chunk[found.id][0])


def over_budget(budget: Budget, max_queries: int) -> QueryBudgetError:
    """The error of an image that is not begun."""
    return QueryBudgetError(
        f"{budget.left} queries are left of the budget of {budget.limit}, and an image may take {max_queries}"
    )


def in_order(results: Iterable[tuple[int, StreamResult]]) -> Iterator[StreamResult]:
    """Results in the order of their places from 0 on, each as soon as those before it are there."""
    waiting: dict[int, StreamResult] = {}
    following = 0
    for place, result in results:
        waiting[place] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1
    assert not waiting, "an image was lost"
