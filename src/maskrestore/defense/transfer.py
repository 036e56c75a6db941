"""The transfer test: does the suspicious region decide the label of other pictures, too?

A trigger carries its label to whatever picture it is shown on; a part of an ordinary image does not. So a restoration
that changed the label is believed only if the region that it replaced, put back at its place on pictures that have
nothing to do with the image, brings the original label there every time (an attack with one target class), or changes
their labels every time (an attack with a target for each class).

Source of the idea: SentiNet (Chou et al., 2020), which pastes the salient region onto a set of held-out clean images.
Here no other image is needed: the pictures are the purified image, mirrored and turned, and clouds of random colour.
Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.types import Classifier

__all__ = ["CLOUDS", "TURNS", "Attempt", "other_pictures", "transfer_test"]

TURNS = 3
"""Pictures made of the purified image: mirrored, turned by a quarter, turned by a half."""
CLOUDS = 3
"""Pictures of random colour."""
_CLOUD_GRID = 4  # colours along each side of a cloud: coarse, as what is in the background of a photograph


def other_pictures(purified: Tensor, streams: Sequence[Stream]) -> Tensor:
    """Pictures without the suspicious region: ``(B, C, H, W)`` in [0, 1] -> ``(B, TURNS + CLOUDS, C, H, W)``."""
    channels, height, width = purified.shape[1:]
    quarter = resize(purified.rot90(1, (2, 3)), height, width)  # of a picture that is not square, sides are swapped
    turned = torch.stack([purified.flip(3), quarter, purified.rot90(2, (2, 3))], dim=1)
    # Counters 0 to 2 of the stream belong to the scoring masks and to refinement.
    colours = torch.stack([stream.uniform(3, shape=(CLOUDS, channels, _CLOUD_GRID, _CLOUD_GRID)) for stream in streams])
    clouds = resize(colours.flatten(0, 1), height, width).unflatten(0, (-1, CLOUDS))
    return torch.cat([turned, clouds.to(purified)], dim=1)


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


def transfer_test(attempt: Attempt, classifier: Classifier, *, compare: bool) -> tuple[Tensor, Tensor]:
    """Whether what was restored in each image behaves like a trigger; where the label is what it was, it does not.

    compare: ask for the pictures' own labels, too, where the original label is not brought everywhere; without them
    only a trigger with one target class shows.

    Returns ``(B,)`` bool, and ``(B,)`` int64: the queries spent, none where the label is what it was, else
    ``TURNS + CLOUDS`` or twice as many.
    """
    found, queries = torch.zeros_like(attempt.before, dtype=torch.bool), torch.zeros_like(attempt.before)
    changed = (attempt.before != attempt.after).nonzero().squeeze(1)
    if not len(changed):
        return found, queries
    images, before = attempt.images[changed].unsqueeze(1), attempt.before[changed].unsqueeze(1)
    pictures = other_pictures(attempt.restored[changed], [attempt.streams[row] for row in changed])
    region = tokens_to_pixels(attempt.hidden[changed], *images.shape[-2:]).unsqueeze(1)  # (B, 1, 1, H, W)
    answers = _ask(classifier, torch.where(region, images, pictures))
    carried = (answers == before).all(dim=1)
    queries[changed] = pictures.shape[1]
    unsure = (~carried).nonzero().squeeze(1)
    if compare and len(unsure):
        carried[unsure] = (answers[unsure] != _ask(classifier, pictures[unsure])).all(dim=1)
        queries[changed[unsure]] *= 2
    found[changed] = carried
    return found, queries


def _ask(classifier: Classifier, pictures: Tensor) -> Tensor:
    # (B, K, C, H, W) -> (B K, C, H, W) -> (B K,) -> (B, K)
    answers: Tensor = classifier(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    return answers
