"""The schedule of the authors' public code, the baseline of the speed benchmarks.

It applies one mask at a time to a batch of images: 25 scoring passes, then 10 refinement passes for each of the two
scores, then 5 restorations. Each is a full pass of the masked autoencoder in float32 that decodes every token, and the
classifier is asked after each. As in the authors' code, all images of a pass hide the same number of tokens: the
scoring masks are shared by all images, and L and the number of tokens above each threshold are means over the batch.

This is a new implementation from the paper and the known facts about that code; nothing is copied. Departures, which do
not change the amount of work: masks hide exactly 75 %; images shrink with antialiasing and pixels are clipped, as in
maskrestore, so that the same masks give the same scores (``tests/benchmarks/test_authors_schedule.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.refinement import connected_sets, top_tokens, updated_scores
from maskrestore.imaging.patches import pool_to_tokens, tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.imaging.ssim import ssim_map
from maskrestore.mae.vit import ViTMAE
from maskrestore.types import Classifier

__all__ = ["AuthorsSchedule", "restored", "shared_masks"]


@dataclass(frozen=True, kw_only=True)
class AuthorsSchedule:
    """Purifies batches of images, one pass at a time."""

    network: nn.Module
    """A ``ViTMAE`` or ``ConvMAE`` in float32."""
    classifier: Classifier
    config: BDMAEConfig
    generator: torch.Generator
    """Draws the masks and the random numbers of refinement, for the whole batch."""

    @torch.inference_mode()
    def purify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Purify one batch, ``(B, C, H, W)`` in [0, 1]. Returns the purified images and their labels.

        All tensors are on the device of the network, as in the authors' code.
        """
        images = images.to(next(self.network.parameters()).device)
        original = self._labels(images)
        grid: int = self.network.grid  # type: ignore[assignment]
        shared = shared_masks(grid, self.config, self.generator).to(images.device)
        # (N_o, N_i, g, g) -> (B, N_o, N_i, g, g)
        image_scores, label_scores = self.trigger_scores(images, shared.expand(len(images), -1, -1, -1, -1), original)
        # L, the same for all images of the batch
        refinement = self.config.refinement
        threshold = math.inf if refinement is None else refinement.candidate_threshold
        suspicious = int((image_scores >= threshold).sum() / len(images))
        flips = int(label_scores.sum() / len(images))
        image_scores = self._refine(images, image_scores, suspicious, original)
        label_scores = self._refine(images, label_scores, flips, original)
        purified = self._recover(images, (image_scores + label_scores) / 2)
        return purified.cpu(), self.classifier(purified)

    @torch.inference_mode()
    def trigger_scores(self, images: Tensor, hidden: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
        """S_i and S_l (4.2), each ``(B, g, g)``.

        hidden: ``(B, N_o, N_i, g, g)`` bool, the same number of tokens in every mask. original: ``(B,)`` labels.
        """
        config, size, (height, width) = self.config, hidden.shape[-1], images.shape[-2:]
        image_scores = torch.zeros(len(images), size, size, device=images.device)
        label_scores = torch.zeros_like(image_scores)
        for masks in hidden.unbind(1):
            total, count = torch.zeros_like(images), torch.zeros_like(images[:, :1])
            for mask in masks.unbind(1):
                restoration = restored(self.network, images, mask)
                flipped = self._labels(restoration) != original
                label_scores += mask & flipped[:, None, None]
                pixels = tokens_to_pixels(mask, height, width)
                total += restoration * pixels
                count += pixels
            fused = torch.where(count > 0, total / count.clamp(min=1), images)
            similarity = ssim_map(images, fused, window=config.scores.ssim_window, sigma=config.scores.ssim_sigma)
            image_scores += 1 - pool_to_tokens(similarity, size)
        return image_scores / config.masks.rounds, label_scores / (config.masks.rounds * config.masks.per_round)

    def _refine(self, images: Tensor, scores: Tensor, suspicious: int, original: Tensor) -> Tensor:
        """Refine one kind of scores (4.3). suspicious: L."""
        refinement, size = self.config.refinement, suspicious // 2
        if size < 1 or refinement is None:
            return scores
        sizes = torch.full((len(images),), size, device=images.device)
        candidates = top_tokens(scores, 2 * sizes)
        for _ in range(refinement.steps):
            noise = torch.rand(len(images), size - 1, scores[0].numel(), generator=self.generator)
            tested = connected_sets(scores, candidates, sizes, noise.to(images.device), refinement.neighbour_bonus)
            flipped = self._labels(restored(self.network, images, tested)) != original
            scores = updated_scores(scores, tested, candidates, flipped, refinement.rate)
        return scores

    def _recover(self, images: Tensor, scores: Tensor) -> Tensor:
        """Restore with the mask of each threshold, one after the other, and fuse the restorations (4.4)."""
        config, raised = self.config.restoration, 0.0
        while (scores >= config.thresholds[-1] + raised).sum() / scores.numel() > config.max_restored:
            raised += config.threshold_step
        total, count = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        for threshold in config.thresholds:
            over = int((scores >= threshold + raised).sum() / len(images))
            if over:
                hidden = top_tokens(scores, torch.full((len(images),), over, device=images.device))
                pixels = tokens_to_pixels(hidden, *images.shape[-2:])
                total += restored(self.network, images, hidden) * pixels
                count += pixels
        return torch.where(count > 0, total / count.clamp(min=1), images)

    def _labels(self, images: Tensor) -> Tensor:
        return self.classifier(images).to(images.device)


def restored(network: nn.Module, images: Tensor, hidden: Tensor) -> Tensor:
    """One pass (Eq. 1): decode every token and paste the hidden ones.

    images: ``(B, C, H, W)`` in [0, 1]. hidden: ``(B, g, g)`` bool, the same number of tokens in each. Returns
    ``(B, C, H, W)``.
    """
    size: int = network.image_size  # type: ignore[assignment]
    height, width = images.shape[-2:]
    inputs = resize(images, size, size).expand(-1, 3, -1, -1)
    if isinstance(network, ViTMAE):
        output = network.to_pixels(network.predict(inputs, hidden))
    else:
        output = network(inputs, hidden)
    if images.shape[1] == 1:
        output = output.mean(dim=1, keepdim=True)
    output = resize(output, height, width).clamp(0, 1)
    return torch.where(tokens_to_pixels(hidden, height, width), output, images)


def shared_masks(grid: int, config: BDMAEConfig, generator: torch.Generator) -> Tensor:
    """The scoring masks of a batch: ``(N_o, N_i, g, g)`` bool; visible sets of a round are parts of permutations."""
    tokens = grid * grid
    visible = max(1, round((1 - config.masks.hidden_ratio) * tokens))
    hidden = torch.ones(config.masks.rounds, config.masks.per_round, tokens, dtype=torch.bool)
    for masks in hidden:
        order = torch.empty(0, dtype=torch.long)
        for mask in masks:
            if len(order) < visible:
                order = torch.randperm(tokens, generator=generator)
            mask[order[:visible]] = False
            order = order[visible:]
    masks_by_round: Tensor = hidden.unflatten(2, (grid, grid))
    return masks_by_round
