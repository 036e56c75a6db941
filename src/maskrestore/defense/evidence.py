"""What the random masks have shown about each image so far (4.2), gathered round by round."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.scores import consensus, contrast_scores, flip_scores, image_scores, random_masks
from maskrestore.defense.streams import Stream
from maskrestore.types import Classifier, Restorer

__all__ = ["Evidence"]


class Evidence:
    """Restorations under random masks and the classifier's votes on them, for the images of a chunk.

    ``rows`` are indices of images, ``(R,)`` int64; rounds count from 0.
    """

    def __init__(
        self, images: Tensor, original: Tensor, streams: Sequence[Stream], restorer: Restorer, config: BDMAEConfig
    ) -> None:
        """images: ``(B, C, H, W)``; original: ``(B,)``, their labels."""
        self._images, self._original = images, original
        self._restorer, self._config = restorer, config
        self._hidden = random_masks(streams, restorer.grid, config)  # (B, N_o, N_i, g, g)
        self._votes = original.unsqueeze(1).repeat(1, config.masks)
        self._by_round = torch.zeros(*self._hidden.shape[:2], restorer.grid, restorer.grid)

    def restore(self, rows: Tensor, first: int, last: int) -> Tensor:
        """Restore images under the masks of rounds ``first`` to ``last - 1``, all in one call.

        Returns ``(R, rounds, N_i, C, H, W)``, for :meth:`ask`.
        """
        hidden = self._hidden[rows, first:last]
        # (R, rounds, N_i, g, g) -> (R, rounds N_i, g, g)
        restored = self._restorer.restore(self._images[rows], hidden.flatten(1, 2))
        restored = torch.unflatten(restored, 1, hidden.shape[1:3])
        for number in range(last - first):
            one = slice(number, number + 1)
            scores = image_scores(self._images[rows], restored[:, one], hidden[:, one], self._config)
            self._by_round[rows, first + number] = scores
        return restored

    def ask(self, rows: Tensor, restored: Tensor, first: int, classifier: Classifier) -> int:
        """Have the classifier vote on restorations of rounds from ``first`` on; returns the queries for each image."""
        start = first * self._config.masks_per_round
        pictures = restored.flatten(1, 2)[:, : max(0, self._config.voting_masks - start)]
        count = pictures.shape[1]
        if count and len(rows):
            # (R, M, C, H, W) -> (R M, C, H, W) -> (R M,) -> (R, M)
            self._votes[rows, start : start + count] = classifier(pictures.flatten(0, 1)).unflatten(0, (-1, count))
        return count

    def image_scores(self, rows: Tensor, rounds: int) -> Tensor:
        """S_i after so many rounds: ``(R, g, g)``."""
        return self._by_round[rows, :rounds].mean(dim=1)

    def label_scores(self, rows: Tensor, rounds: int) -> Tensor:
        """S_l after so many rounds: ``(R, g, g)``; 0 without votes."""
        votes = self._counted(rows, rounds)
        flipped = votes != self._original[rows].unsqueeze(1)
        hidden = self._hidden[rows].flatten(1, 2)[:, : votes.shape[1]]
        if not votes.shape[1]:
            return torch.zeros(len(rows), *hidden.shape[2:])
        if self._config.label_score == "contrast":
            return contrast_scores(flipped, hidden, self._config.contrast_windows)
        return flip_scores(flipped, hidden)

    def agreement(self, rows: Tensor, rounds: int) -> Tensor:
        """How far the votes agree on one other label: ``(R,)`` in [0, 1]; 0 without votes."""
        votes = self._counted(rows, rounds)
        return consensus(votes, self._original[rows]) if votes.shape[1] else torch.zeros(len(rows))

    def _counted(self, rows: Tensor, rounds: int) -> Tensor:
        return self._votes[rows, : min(rounds * self._config.masks_per_round, self._config.voting_masks)]
