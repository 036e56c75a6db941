"""The transfer test: does the suspicious region decide the label of other pictures, too?

A trigger carries its label to whatever picture it is shown on; a part of an ordinary image does not. So a restoration
that changed the label is believed only if the region that it replaced, put back at its place on clouds of random
colour, brings the original label there every time. A trigger with a target for each class does not do that, but it
changes every label: so where the first look fails, in the first attempt to restore, the region is believed if it
changes the label of every cloud and of every picture that the purified image gives when it is mirrored or turned.

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
from maskrestore.types import Classifier

__all__ = ["CLOUDS", "TURNS", "Attempt", "clouds", "transfer_queries", "transfer_test", "turned"]

_CLOUD_GRIDS = (4, 8, 16)
"""Colours along each side of each cloud. A classifier may answer one label for all smooth noise and another for fine
noise, and a picture that has the original label anyway tests nothing."""
CLOUDS = len(_CLOUD_GRIDS)
"""Pictures of random colour."""
TURNS = 3
"""Pictures made of the purified image: mirrored, turned by a quarter, turned by a half."""


def clouds(images: Tensor, streams: Sequence[Stream]) -> Tensor:
    """Random colours for each of ``(B, C, H, W)`` images: ``(B, CLOUDS, C, H, W)`` in [0, 1]."""
    channels, height, width = images.shape[1:]

    def cloud(number: int, grid: int) -> Tensor:
        # Counters 0 to 2 of the stream belong to the scoring masks and to refinement.
        colours = torch.stack([stream.uniform(3, number, shape=(channels, grid, grid)) for stream in streams])
        return resize(colours, height, width).to(images)

    return torch.stack([cloud(number, grid) for number, grid in enumerate(_CLOUD_GRIDS)], dim=1)


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


def transfer_test(
    attempt: Attempt, classifier: Classifier, *, count: int = CLOUDS, compare: bool
) -> tuple[Tensor, Tensor]:
    """Whether what was restored in each image behaves like a trigger; where the label is what it was, it does not.

    count: clouds to ask about. compare: look for a trigger with a target for each class, too, where the original
    label is not brought everywhere.

    Returns ``(B,)`` bool, and ``(B,)`` int64: the queries spent. None where the label is what it was, else ``count``,
    and ``count + 2 * TURNS`` more for a comparison.
    """
    found, queries = torch.zeros_like(attempt.before, dtype=torch.bool), torch.zeros_like(attempt.before)
    changed = (attempt.before != attempt.after).nonzero().squeeze(1)
    if not len(changed):
        return found, queries
    images, before = attempt.images[changed], attempt.before[changed]
    region = tokens_to_pixels(attempt.hidden[changed], *images.shape[-2:])
    pictures = clouds(images, [attempt.streams[row] for row in changed])[:, :count]
    answers = _ask(classifier, _pasted(images, region, pictures))
    carried = (answers == before.unsqueeze(1)).all(dim=1)
    queries[changed] = count
    rest = (~carried).nonzero().squeeze(1)
    if compare and len(rest):
        copies = turned(attempt.restored[changed[rest]])
        on_copies = _ask(classifier, _pasted(images[rest], region[rest], copies))
        with_region = torch.cat([answers[rest], on_copies], dim=1)
        without = _ask(classifier, torch.cat([pictures[rest], copies], dim=1))
        carried[rest] = (with_region != without).all(dim=1)
        queries[changed[rest]] += count + 2 * TURNS
    found[changed] = carried
    return found, queries


def transfer_queries(count: int, *, compare: bool) -> int:
    """Queries of a transfer test, at most."""
    return count + (count + 2 * TURNS if compare else 0)


def _pasted(images: Tensor, region: Tensor, pictures: Tensor) -> Tensor:
    """The region ``(B, 1, H, W)`` of images ``(B, C, H, W)`` on pictures ``(B, K, C, H, W)``."""
    return torch.where(region.unsqueeze(1), images.unsqueeze(1), pictures)


def _ask(classifier: Classifier, pictures: Tensor) -> Tensor:
    # (B, K, C, H, W) -> (B K, C, H, W) -> (B K,) -> (B, K)
    answers: Tensor = classifier(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    return answers
