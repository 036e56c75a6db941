"""The state of images while they are purified: labels, maps and results so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.suspicion import WEIGHTS, suspicion
from maskrestore.defense.oracle import Oracle, Restore, Rounds
from maskrestore.defense.streams import Stream
from maskrestore.runtime.devices import to_host
from maskrestore.types import Purification, Restorer

__all__ = ["State", "prepared_by"]

MAPS = ("scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")
"""Fields of :class:`Purification` that hold score maps."""


def prepared_by(restorer: Restorer, images: Tensor) -> Any:
    """Images as the restorer wants them: see :class:`~maskrestore.types.PreparingRestorer`."""
    # Looked up in the class, because a wrapper may forward the attributes of a restorer without preparing images.
    prepare = getattr(type(restorer), "prepare_images", None)
    return images if prepare is None else prepare(restorer, images)


class State:
    """``B`` images of one size: their labels so far, and which of them are settled. Images do not affect each other.

    ``rows`` are always ``(R,)`` int64 indices of some of the images. Pixels are on the device of the restorer, other
    tensors on the CPU.
    """

    def __init__(self, images: Tensor, streams: Sequence[Stream], restorer: Restorer, oracle: Oracle) -> None:
        """images: ``(B, C, H, W)`` in [0, 1]. streams: ``B``."""
        count, grid = len(images), restorer.grid
        self.images = images
        self.restorer = restorer
        self.prepared = prepared_by(restorer, images)
        self.grid = grid
        self.oracle = oracle
        self.original = torch.zeros(count, dtype=torch.int64)
        """``(B,)``: the labels of the original images, once they are known."""
        self.labels = self.original.clone()
        """``(B,)``: the labels of ``purified``."""
        self.purified = images.clone()
        self.hidden = torch.zeros(count, grid, grid, dtype=torch.bool)
        """``(B, g, g)``: the tokens that are restored or filtered in ``purified``."""
        self.settled = torch.zeros(count, dtype=torch.bool)
        """``(B,)``: images whose result is final."""
        self.doubted = self.original.clone()
        """``(B,)``: labels of the last restorations that were not believed; the original ones if there were none."""
        self.mirrored = self.original.clone()
        """``(B,)``: the labels of the mirrored images; the original ones if that was not asked."""
        self.maps = {name: torch.zeros(count, grid, grid) for name in MAPS}
        """Score maps by their name in :class:`Purification`; 0 if not computed."""
        self.evidence = {name: torch.zeros(count) for name in WEIGHTS}
        """``(B,)`` each, what the stages find out about an image as a whole, for its suspicion; 0 if a stage did not.
        Empty if nothing can tell: no suspicion then."""
        self.seconds = torch.zeros(count, dtype=torch.float64)
        """``(B,)``: share of each image in the computing time."""
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
        """Set the labels of the original images, ``(B,)`` int64."""
        self.original, self.labels = labels, labels.clone()
        self.doubted, self.mirrored = labels.clone(), labels.clone()

    def keep_maps(self, rows: Tensor, **maps: Tensor) -> None:
        """Store maps of some images, each ``(R, g, g)``, in place of earlier ones."""
        for name, values in maps.items():
            self.maps[name][rows] = values

    def note(self, rows: Tensor, **evidence: Tensor) -> None:
        """Store evidence about some images, each ``(R,)``, unless a higher value is there."""
        for name, values in evidence.items():
            self.evidence[name][rows] = torch.maximum(self.evidence[name][rows], values)

    def settle(self, rows: Tensor, restored: Tensor, hidden: Tensor, labels: Tensor, *, tested: bool = True) -> None:
        """Settle images: set their results.

        restored: ``(R, C, H, W)``; hidden: ``(R, g, g)`` bool; labels: ``(R,)`` int64. tested: whether what they passed
        says that a new label is that of an image without its trigger.
        """
        self.note(rows, accepted=(tested & (labels != self.original[rows])).float())
        self.purified[rows], self.hidden[rows], self.labels[rows] = restored, hidden, labels
        self.settled[rows] = True

    def settle_whole(self, rows: Tensor, purified: Tensor, labels: Tensor) -> None:
        """Settle images of which every token is another one. Arguments: as for :meth:`settle`."""
        everything = torch.ones(len(rows), self.grid, self.grid, dtype=torch.bool)
        self.settle(rows, purified, everything, labels)

    def result(self, rows: Tensor) -> Purification:
        """The results of some images."""
        return Purification(
            images=to_host(self.purified[rows]),
            labels=self.labels[rows],
            original_labels=self.original[rows],
            queries=self.oracle.queries[rows],
            hidden=self.hidden[rows],
            suspicion=self._suspicion(rows),
            **{name: values[rows] for name, values in self.maps.items()},
        )

    def _suspicion(self, rows: Tensor) -> Tensor | None:
        if not self.evidence:
            return None
        return suspicion({name: values[rows] for name, values in self.evidence.items()})
