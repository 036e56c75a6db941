"""The transfer test: does the suspicious region decide the label of other pictures, too?

A trigger carries its label to whatever picture it is shown on; a part of an ordinary image does not. So a restoration
that changed the label is believed only if the region that it replaced, put back at its place on clouds of random
colour, brings the original label there: onto most of them in the first attempt to restore, which rarely changes the
label of a clean image, and onto all of them later. A trigger with a target for each class does not do that, but it
changes every label: so where the first look fails, in the first attempt, the region is believed if it changes the
label of most clouds and of every picture that the purified image gives when it is mirrored or turned.

A large part of an ordinary image is much of what the image shows, and keeps its label on smooth clouds. Where every
pixel around it is noise it does not, and a large trigger does. So squares (``squares.py``) go onto finer clouds.

Source of the idea: SentiNet (Chou et al., 2020), which pastes the salient region onto a set of held-out clean images.
Here no other image is needed. Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.runtime.devices import to_device
from maskrestore.types import Classifier

__all__ = [
    "CLOUDS",
    "CLOUD_GRIDS",
    "FINE_CLOUD_GRIDS",
    "TURNS",
    "Attempt",
    "OnClouds",
    "clouds",
    "on_clouds",
    "transfer_queries",
    "transfer_test",
    "turned",
]

CLOUD_GRIDS = (20, 12, 4)
"""Colours along each side of each cloud, the finest, which tells most, first. A classifier may answer one label for all
smooth noise and another for fine noise, and a picture that has the original label anyway tests nothing. Chosen on
images of 32 x 32; what a larger image needs has not been measured."""
FINE_CLOUD_GRIDS = (32, 20, 8)
"""The same for large regions: in images of 32 x 32 every pixel is noise, and a trigger of one pixel is lost."""
CLOUDS = len(CLOUD_GRIDS)
"""Pictures of random colour."""
TURNS = 3
"""Pictures made of the purified image: mirrored, turned by a quarter, turned by a half."""


def clouds(images: Tensor, streams: Sequence[Stream], grids: Sequence[int] = CLOUD_GRIDS) -> Tensor:
    """Random colours for each of ``(B, C, H, W)`` images, one for each of K grids: ``(B, K, C, H, W)`` in [0, 1]."""
    channels, height, width = images.shape[1:]

    def cloud(grid: int) -> Tensor:
        side = min(grid, height, width)  # shrinking would grey the colours
        # Counters 0 to 2 of the stream belong to the scoring masks and to refinement.
        colours = torch.stack([stream.uniform(3, grid, shape=(channels, side, side)) for stream in streams])
        return resize(colours, height, width).to(images)

    return torch.stack([cloud(grid) for grid in grids], dim=1)


def turned(images: Tensor) -> Tensor:
    """Copies of the images, mirrored and turned: ``(B, C, H, W)`` -> ``(B, TURNS, C, H, W)``."""
    quarter = resize(images.rot90(1, (2, 3)), *images.shape[-2:])  # of a picture that is not square, sides are swapped
    return torch.stack([images.flip(3), quarter, images.rot90(2, (2, 3))], dim=1)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Restorations that wait to be believed, one for each of ``B`` images."""

    images: Tensor
    """``(B, C, H, W)`` in [0, 1], as they came."""
    restored: Tensor
    """``(B, C, H, W)`` in [0, 1]."""
    hidden: Tensor
    """``(B, g, g)`` bool: the tokens that were restored."""
    before: Tensor
    """``(B,)`` int64: labels of ``images``."""
    after: Tensor
    """``(B,)`` int64: labels of ``restored``."""
    streams: Sequence[Stream]
    """``B`` of them."""


@dataclass(frozen=True, kw_only=True)
class OnClouds:
    """What a region of each of ``B`` images does to clouds of random colour."""

    brings: Tensor
    """``(B,)`` bool: its own image's label comes along onto enough clouds."""
    changes: Tensor
    """``(B,)`` bool: enough clouds get another label; False where that was not asked."""
    queries: Tensor
    """``(B,)`` int64."""


def on_clouds(
    images: Tensor,
    hidden: Tensor,
    labels: Tensor,
    streams: Sequence[Stream],
    classifier: Classifier,
    *,
    grids: Sequence[int] = CLOUD_GRIDS,
    enough: int,
    compare: bool,
) -> OnClouds:
    """Put the ``hidden`` region, ``(B, g, g)``, of images ``(B, C, H, W)`` on a cloud of each grid and ask.

    labels: ``(B,)``, of the images. enough: how many clouds are enough; all, where there are fewer. compare: ask about
    the clouds themselves, too, where the label does not come along.
    """
    enough = min(enough, len(grids))
    region = _region(images, hidden)
    pictures = clouds(images, streams, grids)
    answers = _ask(classifier, _pasted(images, region, pictures))
    brings = (answers == labels.unsqueeze(1)).sum(dim=1) >= enough
    changes, queries = torch.zeros_like(brings), torch.full_like(labels, len(grids))
    rest = (~brings).nonzero().squeeze(1)
    if compare and len(rest):
        changes[rest] = (answers[rest] != _ask(classifier, pictures[rest])).sum(dim=1) >= enough
        queries[rest] += len(grids)
    return OnClouds(brings=brings, changes=changes, queries=queries)


def transfer_test(
    attempt: Attempt, classifier: Classifier, *, grids: Sequence[int] = CLOUD_GRIDS, enough: int, compare: bool
) -> tuple[Tensor, Tensor]:
    """Whether what was restored in each image behaves like a trigger; where the label is what it was, it does not.

    grids: colours along the sides of the clouds to ask about. enough: how many clouds the original label must come
    along to; all, where there are fewer. compare: where it does not, look for a trigger with a target for each class,
    too, which changes the label of as many.

    Returns ``(B,)`` bool, and ``(B,)`` int64: the queries spent. None where the label is what it was, else one for each
    cloud; as many more for a comparison, and ``2 * TURNS`` more if it goes on to the turned copies.
    """
    found, queries = torch.zeros_like(attempt.before, dtype=torch.bool), torch.zeros_like(attempt.before)
    changed = (attempt.before != attempt.after).nonzero().squeeze(1)
    if not len(changed):
        return found, queries
    images, hidden = attempt.images[changed], attempt.hidden[changed]
    streams = [attempt.streams[row] for row in changed]
    labels = attempt.before[changed]
    seen = on_clouds(images, hidden, labels, streams, classifier, grids=grids, enough=enough, compare=compare)
    found[changed], queries[changed] = seen.brings, seen.queries
    rest = seen.changes.nonzero().squeeze(1)
    if len(rest):
        copies = turned(attempt.restored[changed[rest]])
        with_region = _ask(classifier, _pasted(images[rest], _region(images, hidden[rest]), copies))
        found[changed[rest]] = (with_region != _ask(classifier, copies)).all(dim=1)
        queries[changed[rest]] += 2 * TURNS
    return found, queries


def transfer_queries(count: int, *, compare: bool) -> int:
    """Queries of a transfer test, at most."""
    return count + (count + 2 * TURNS if compare else 0)


def _region(images: Tensor, hidden: Tensor) -> Tensor:
    """Tokens ``(B, g, g)`` as pixels ``(B, 1, H, W)``, where the images are."""
    return tokens_to_pixels(to_device(hidden, images.device), *images.shape[-2:])


def _pasted(images: Tensor, region: Tensor, pictures: Tensor) -> Tensor:
    """The region ``(B, 1, H, W)`` of images ``(B, C, H, W)`` on pictures ``(B, K, C, H, W)``."""
    return torch.where(region.unsqueeze(1), images.unsqueeze(1), pictures)


def _ask(classifier: Classifier, pictures: Tensor) -> Tensor:
    # (B, K, C, H, W) -> (B K, C, H, W) -> (B K,) -> (B, K)
    answers: Tensor = classifier(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    return answers
