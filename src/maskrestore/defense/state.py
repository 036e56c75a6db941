"""What is known of the images of a cohort while they are purified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.oracle import Oracle, Restore, Rounds
from maskrestore.defense.streams import Stream
from maskrestore.runtime.devices import to_host
from maskrestore.types import Purification, Restorer

__all__ = ["State", "prepared_by"]

MAPS = ("scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")
"""Fields of :class:`Purification` that hold score maps."""


def prepared_by(restorer: Restorer, images: Tensor) -> Any:
    """What the restorer is given for images: see :class:`~maskrestore.types.PreparingRestorer`."""
    # Looked up in its class: a wrapper that passes on the attributes of another restorer does not prepare images.
    prepare = getattr(type(restorer), "prepare_images", None)
    return images if prepare is None else prepare(restorer, images)


class State:
    """``B`` images of one size: their answers so far, and which of them are settled. Images do not affect each other.

    ``rows`` are always ``(R,)`` int64 indices of some of the images. Pixels are on the device of the restorer; all else
    is small, and on the CPU.
    """

    def __init__(self, images: Tensor, streams: Sequence[Stream], restorer: Restorer, oracle: Oracle) -> None:
        """images: ``(B, C, H, W)`` in [0, 1]. streams: ``B``."""
        count, grid = len(images), restorer.grid
        self.images = images
        self.prepared = prepared_by(restorer, images)
        self.grid = grid
        self.oracle = oracle
        self.original = torch.zeros(count, dtype=torch.int64)
        """``(B,)``: the labels of the images as they came, once they are known."""
        self.labels = self.original.clone()
        """``(B,)``: the answers so far."""
        self.purified = images.clone()
        self.hidden = torch.zeros(count, grid, grid, dtype=torch.bool)
        """``(B, g, g)``: what is restored in ``purified``."""
        self.settled = torch.zeros(count, dtype=torch.bool)
        """``(B,)``: images whose result is final."""
        self.maps = {name: torch.zeros(count, grid, grid) for name in MAPS}
        """Score maps by their name in :class:`Purification`; 0 where they were not computed."""
        self.seconds = torch.zeros(count, dtype=torch.float64)
        """``(B,)``: the share of each image in the time that was spent."""
        self._streams = streams

    @property
    def all_rows(self) -> Tensor:
        """Every image."""
        return torch.arange(len(self.images))

    @property
    def open_rows(self) -> Tensor:
        """The images that are not settled."""
        return (~self.settled).nonzero().squeeze(1)

    def streams(self, rows: Tensor) -> list[Stream]:
        """The streams of some images."""
        return [self._streams[row] for row in rows.tolist()]

    def restore(self, rows: Tensor, hidden: Tensor) -> Rounds[Tensor]:
        """Restore hidden tokens, ``(R, g, g)`` or ``(R, M, g, g)`` bool: ``(R, C, H, W)`` or ``(R, M, C, H, W)``."""
        return (yield Restore(self.prepared[rows], hidden))

    def begin(self, labels: Tensor) -> None:
        """Take the labels of the images as they came, ``(B,)`` int64; they are the answers until something changes."""
        self.original, self.labels = labels, labels.clone()

    def keep_maps(self, rows: Tensor, **maps: Tensor) -> None:
        """Keep the latest maps of some images, each ``(R, g, g)``."""
        for name, values in maps.items():
            self.maps[name][rows] = values

    def settle(self, rows: Tensor, restored: Tensor, hidden: Tensor, labels: Tensor) -> None:
        """Take a restoration as the result of each image, and settle it.

        restored: ``(R, C, H, W)``; hidden: ``(R, g, g)`` bool; labels: ``(R,)`` int64.
        """
        self.purified[rows], self.hidden[rows], self.labels[rows] = restored, hidden, labels
        self.settled[rows] = True

    def result(self, rows: Tensor) -> Purification:
        """The results of some images."""
        return Purification(
            images=to_host(self.purified[rows]),
            labels=self.labels[rows],
            original_labels=self.original[rows],
            queries=self.oracle.queries[rows],
            hidden=self.hidden[rows],
            **{name: values[rows] for name, values in self.maps.items()},
        )
