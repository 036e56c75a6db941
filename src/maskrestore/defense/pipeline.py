"""The stages of the paper, composed: what happens to a chunk of images, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.group_testing import sweep
from maskrestore.defense.beyond_paper.squares import least_restorable_squares, square_scores
from maskrestore.defense.beyond_paper.transfer import Attempt, transfer_queries, transfer_test
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.refinement import chain_candidates, connected_sets, growth_noise, updated_scores
from maskrestore.defense.restoration import adaptive_masks, restore_levels
from maskrestore.defense.scores import consensus, contrast_scores, flip_scores, image_scores, random_masks
from maskrestore.defense.state import Case
from maskrestore.defense.streams import Stream
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.threads import on_one_core
from maskrestore.types import Classifier, Purification, Restorer

__all__ = ["Stages", "prepared_by"]


def prepared_by(restorer: Restorer, images: Tensor) -> Any:
    """What the restorer is given for images: see :class:`~maskrestore.types.PreparingRestorer`."""
    # Of its class: what merely passes on the attributes of another restorer is not prepared for this.
    prepare = getattr(type(restorer), "prepare_images", None)
    return images if prepare is None else prepare(restorer, images)


@dataclass(frozen=True)
class Stages:
    """What the stages have in common."""

    restorer: Restorer
    config: BDMAEConfig
    classifier: Classifier
    together: int
    """Pixels of images whose random masks are all looked at in one go."""

    def purify(self, images: Tensor, streams: Sequence[Stream]) -> Purification:
        """Purify ``(B, C, H, W)`` images in [0, 1], which are where the restorer is, each with its own stream."""
        config, prepared = self.config, prepared_by(self.restorer, images)
        if config.blind:
            return self._purify_blindly(images, prepared, streams)
        labels = self.classifier(images)
        case = Case(images=images, prepared=prepared, original=labels, streams=streams, grid=self.restorer.grid)
        if config.sweep:
            sweep(case, self.restorer, self.classifier, grids=config.cloud_grids[: config.clouds])
        rows = case.open
        if len(rows):
            initial_image, initial_label, votes = self._score(case, rows)
            original = case.original[rows]
            image_scores, label_scores = self._refine(case, rows, (initial_image, initial_label))
            # Without votes there is no S_l.
            weight = config.label_weight if config.voting_masks else 0.0
            scores = (1 - weight) * image_scores + weight * label_scores
            if config.consensus:
                scores = torch.maximum(scores, consensus(votes, original)[:, None, None] * image_scores)
            case.keep(rows, scores=scores, image_scores=image_scores, label_scores=label_scores)
            case.keep(rows, initial_image_scores=initial_image, initial_label_scores=initial_label)
            self._recover(case, rows, scores)
            if config.squares and config.voting_masks:
                changed = (votes != original.unsqueeze(1)).float().mean(dim=1)
                self._hide_squares(case, rows, initial_image, changed)
        return case.result()

    def _purify_blindly(self, images: Tensor, prepared: Any, streams: Sequence[Stream]) -> Purification:
        """Restore what S_i asks for, and spend the only query on that."""
        rows = torch.arange(len(images))
        _, scores, _ = self._look(images, prepared, streams, voting=0)
        levels = adaptive_masks(scores, self.config)
        purified = restore_levels(self.restorer, images, prepared, levels)
        labels = self.classifier(purified)
        case = Case(images=images, prepared=prepared, original=labels, streams=streams, grid=self.restorer.grid)
        case.keep(rows, scores=scores, image_scores=scores, initial_image_scores=scores)
        case.purified, case.hidden = purified, levels[:, -1]
        return case.result()

    def _look(
        self, images: Tensor, prepared: Any, streams: Sequence[Stream], *, voting: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hide every random mask, and ask about the first ``voting`` of each image (4.2).

        All of them go through the restorer in one call, and through the classifier in another; of images that are large
        so many rounds at a time as fit. Returns masks ``(B, M, g, g)``, S_i ``(B, g, g)``, labels ``(B, voting)``.
        """
        masks = random_masks(streams, self.restorer.grid, self.config)  # (B, N_o, N_i, g, g)
        pixels = len(images) * images.shape[-2] * images.shape[-1]
        fitting = max(1, masks.shape[1] * self.together // pixels)
        scores: list[Tensor] = []
        votes: list[Tensor] = []
        for hidden in masks.split(fitting, dim=1):
            left = voting - sum(labels.shape[1] for labels in votes)
            of_rounds, labels = self._look_at(images, prepared, hidden, voting=left)
            scores.append(of_rounds)
            votes.append(labels)
        return masks.flatten(1, 2), torch.cat(scores, dim=1).mean(dim=1), torch.cat(votes, dim=1)

    def _look_at(self, images: Tensor, prepared: Any, hidden: Tensor, *, voting: int) -> tuple[Tensor, Tensor]:
        """Hide the masks of some rounds, ``(B, N, N_i, g, g)``. Returns scores ``(B, N, g, g)`` and labels ``(B, M)``
        under the first ``voting`` masks, or as many as there are."""
        restored = self.restorer.restore(prepared, hidden.flatten(1, 2))
        # Read after the labels, so that a GPU has the classifier's work, too, before the host waits for it.
        scores = image_scores(
            images, restored.unflatten(1, hidden.shape[1:3]), to_device(hidden, images.device), self.config
        )
        asked = restored[:, :voting]
        if not asked.shape[1]:
            return scores.cpu(), torch.zeros(len(images), 0, dtype=torch.int64)
        # (B, M, C, H, W) -> (B M, C, H, W) -> (B M,) -> (B, M)
        labels = self.classifier(asked.flatten(0, 1)).unflatten(0, asked.shape[:2])
        return scores.cpu(), labels

    def _score(self, case: Case, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S_i and S_l (4.2) of some images, from one call of the classifier for all of them.

        Returns S_i, S_l, and the labels under the masks that were asked about, ``(R, M)``.
        """
        config, original = self.config, case.original[rows]
        images, prepared = case.images[rows], case.prepared[rows]
        asked, streams = config.voting_masks, [case.streams[row] for row in rows]
        hidden, s_i, votes = self._look(images, prepared, streams, voting=asked)
        if not asked:
            return s_i, torch.zeros_like(s_i), original.unsqueeze(1)
        case.queries[rows] += asked
        flipped, hidden = votes != original.unsqueeze(1), hidden[:, :asked]
        if config.label_score == "contrast":
            s_l = contrast_scores(flipped, hidden, config.contrast_windows)
        else:
            s_l = flip_scores(flipped, hidden)
        return s_i, s_l, votes

    def _refine(self, case: Case, rows: Tensor, initial: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Refine both scores side by side (4.3). Returns S_i and S_l."""
        config, count = self.config, len(rows)
        scores = torch.cat(initial)  # (2 R, g, g): the chains of S_i, then those of S_l
        candidates, sizes = chain_candidates(*initial, config)
        live = (sizes > 0).nonzero().squeeze(1)
        streams = [case.streams[row] for row in rows]
        chains = rows[live % count]
        prepared, original = case.prepared[chains], case.original[chains]
        steps = range(config.refinement_steps if len(live) else 0)
        noises = (growth_noise(streams, live, sizes, step, self.restorer.grid) for step in steps)
        following = next(noises, None)
        while (noise := following) is not None:
            with on_one_core():
                tested = connected_sets(scores[live], candidates[live], sizes[live], noise, config.neighbour_bonus)
            restored = self.restorer.restore(prepared, tested)
            following = next(noises, None)  # drawn while a GPU restores
            flipped = self.classifier(restored) != original
            scores[live] = updated_scores(scores[live], tested, candidates[live], flipped, config.refinement_rate)
        case.queries[rows] += config.refinement_steps * (sizes > 0).view(2, count).sum(dim=0)
        return scores[:count], scores[count:]

    def _recover(self, case: Case, rows: Tensor, scores: Tensor) -> None:
        """Restore what scores high and ask again, attempt by attempt, until a restoration is believed (4.4).

        Where nothing is believed, the image and its label stay what they were.
        """
        config = self.config
        tried = torch.zeros_like(scores, dtype=torch.bool)
        for number, lowered in enumerate(config.attempts):
            where = (~case.settled[rows]).nonzero().squeeze(1)
            levels = adaptive_masks(scores[where] + lowered, config)  # (R, K, g, g)
            hidden = levels[:, -1]
            # Nothing to restore, or nothing but what was tried before, is worth no query.
            fresh = (hidden != tried[where]).flatten(1).any(dim=1)
            tried[where] = hidden
            if not fresh.any():
                continue
            asked, grids = rows[where[fresh]], config.cloud_grids
            restored = restore_levels(self.restorer, case.images[asked], case.prepared[asked], levels[fresh])
            self._attempt(case, asked, restored, hidden[fresh], grids=grids, first=number == 0)

    def _hide_squares(self, case: Case, rows: Tensor, image_scores: Tensor, changed: Tensor) -> None:
        """Hide one suspicious square after the other, while queries last, until a restoration is believed
        (``squares.py``).

        image_scores: ``(R, g, g)``; changed: ``(R,)``, the share of random masks that changed the label.
        """
        config, grid = self.config, self.restorer.grid
        price = 1 + transfer_queries(config.clouds, compare=False)
        hidden = least_restorable_squares(image_scores, config.squares, max(1, round(config.square_side * grid)))
        scores = square_scores(image_scores, hidden, changed, config.square_label_weight)
        suspicious = scores >= config.square_threshold  # (R, K)
        for number in range(config.squares):
            affordable = case.queries[rows] + price <= config.square_limit
            ask = suspicious[:, number] & affordable & ~case.settled[rows]
            if ask.any():
                asked, square = rows[ask], hidden[ask, number]
                restored = self.restorer.restore(case.prepared[asked], square)
                self._attempt(case, asked, restored, square, grids=config.square_cloud_grids)

    def _attempt(
        self,
        case: Case,
        rows: Tensor,
        restored: Tensor,
        hidden: Tensor,
        *,
        grids: Sequence[int],
        first: bool = False,
    ) -> None:
        """Ask about a restoration of each image, and settle those that are believed.

        grids: of the clouds; the first ``clouds`` of them are asked about. first: whether it is the first attempt.
        """
        config = self.config
        attempt = Attempt(
            images=case.images[rows],
            restored=restored,
            hidden=hidden,
            before=case.original[rows],
            after=self.classifier(restored),
            streams=[case.streams[row] for row in rows],
        )
        case.queries[rows] += 1
        believed = torch.ones_like(rows, dtype=torch.bool)
        if config.transfer_test:
            grids = grids[: config.clouds]
            enough, compare = (config.enough_clouds, config.comparison) if first else (len(grids), False)
            believed, queries = transfer_test(attempt, self.classifier, grids=grids, enough=enough, compare=compare)
            case.queries[rows] += queries
        case.take(rows, attempt, believed)
