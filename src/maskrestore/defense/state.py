"""The images of a chunk while they are worked on: what is known, what was spent, and who is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.transfer import Attempt
from maskrestore.defense.streams import Stream
from maskrestore.runtime.devices import to_host
from maskrestore.types import Purification

__all__ = ["Case"]


@dataclass(kw_only=True)
class Case:
    """``B`` images, their answers so far, and their bill. Nothing of an image depends on another one."""

    images: Tensor
    """``(B, C, H, W)`` in [0, 1], as they came. Pixels are on the restorer's device; all else is small, and on the
    CPU."""
    prepared: Any
    """What the restorer is given for them; rows are taken of it as of a tensor."""
    original: Tensor
    """``(B,)`` int64: their labels."""
    streams: Sequence[Stream]
    """``B`` of them."""
    grid: int
    """Tokens along each side."""
    purified: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    hidden: Tensor = field(init=False)
    """``(B, g, g)`` bool: what is restored in ``purified``."""
    queries: Tensor = field(init=False)
    settled: Tensor = field(init=False)
    """``(B,)`` bool: nothing more is asked about these."""
    maps: dict[str, Tensor] = field(init=False)
    """Scores by their name in :class:`Purification`, each ``(B, g, g)``; 0 where they were not computed."""

    def __post_init__(self) -> None:
        count = len(self.images)
        self.purified, self.labels = self.images.clone(), self.original.clone()
        self.hidden = torch.zeros(count, self.grid, self.grid, dtype=torch.bool)
        self.queries = torch.ones_like(self.original)
        self.settled = torch.zeros(count, dtype=torch.bool)
        names = ("scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")
        self.maps = {name: torch.zeros(count, self.grid, self.grid) for name in names}

    @property
    def open(self) -> Tensor:
        """Indices of the images that are not settled: ``(R,)`` int64."""
        return (~self.settled).nonzero().squeeze(1)

    def keep(self, rows: Tensor, **maps: Tensor) -> None:
        """Note the latest maps of some images, each ``(R, g, g)``."""
        for name, values in maps.items():
            self.maps[name][rows] = values

    def take(self, rows: Tensor, attempt: Attempt, believed: Tensor) -> None:
        """Settle the images ``rows``, ``(R,)``, whose attempt is believed, ``(R,)`` bool, with its restoration."""
        taken = rows[believed]
        self.labels[taken], self.purified[taken] = attempt.after[believed], attempt.restored[believed]
        self.hidden[taken], self.settled[taken] = attempt.hidden[believed], True

    def result(self) -> Purification:
        """The answers."""
        return Purification(
            images=to_host(self.purified),
            labels=self.labels,
            original_labels=self.original,
            queries=self.queries,
            hidden=self.hidden,
            **self.maps,
        )
