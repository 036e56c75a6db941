"""Adaptive restoration (section 4.4): restore with several thresholds and fuse (Eq. 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = ["RestorationConfig", "adaptive_masks", "fuse", "restore_in_halves", "restore_levels"]

_FUSED_PIXELS = 2**20
"""Pixels of images that are fused at a time."""


@dataclass(frozen=True, kw_only=True)
class RestorationConfig:
    """Adaptive restoration (4.4). Raises ConfigError."""

    thresholds: tuple[float, ...] = (0.6, 0.55, 0.5, 0.45, 0.4)
    """tau_1 >= ... >= tau_K: one restoration for each; they are fused (4.4, 5.1)."""
    max_restored: float = 0.25
    """All thresholds are raised together until at most this share of the tokens reaches the lowest (4.4)."""
    threshold_step: float = 0.01
    """By how much they are raised at a time, in [0.0001, 1]: smaller steps take long. The paper says "a small
    amount" (4.4)."""
    attempts: tuple[float, ...] = (0.0,)
    """By how much the thresholds are lowered in each attempt. Attempts end with the first restoration that passes the
    transfer test. The paper has one attempt, and no test."""
    single_query: bool = False
    """Send a single query, for the restored image; S_i alone decides what is restored. Not in the paper."""

    def __post_init__(self) -> None:
        check_types(self)
        values = self.thresholds
        ordered = len(values) > 0 and all(map(math.isfinite, values)) and list(values) == sorted(values, reverse=True)
        check(ordered, "restoration.thresholds", "one or more, highest first", values)
        check(0 < self.max_restored <= 1, "restoration.max_restored", "in (0, 1]", self.max_restored)
        check(1e-4 <= self.threshold_step <= 1, "restoration.threshold_step", "in [0.0001, 1]", self.threshold_step)
        some = len(self.attempts) > 0 and min(self.attempts) >= 0
        check(some, "restoration.attempts", "one or more of at least 0", self.attempts)

    @property
    def max_queries(self) -> int:
        """The most queries for an image, without the transfer test: one for each attempt."""
        return 1 if self.single_query else len(self.attempts)


def restore_levels(state: State, rows: Tensor, hidden: Tensor) -> Rounds[Tensor]:
    """Restore some images under the mask of each threshold, and fuse the restorations.

    hidden: ``(R, K, g, g)`` bool, nested, of :func:`adaptive_masks`. Returns ``(R, C, H, W)``.
    """
    images = state.images[rows]
    # Each mask contains the one before; a mask equal to the one before needs no restoration of its own.
    # (R, K): tokens that each mask adds to the one before
    added = hidden.flatten(2).sum(dim=2).diff(dim=1, prepend=torch.zeros(len(hidden), 1, dtype=torch.long))
    image, level = (added > 0).nonzero(as_tuple=True)
    if not len(image):
        return images
    restored = yield from state.restore(rows[image], hidden[image, level])
    # Masks before the first restoration of an image hide nothing, so it does not matter which restoration they get.
    source = ((added > 0).flatten().cumsum(dim=0) - 1).clamp(min=0).view_as(added)
    return fuse(images, restored, hidden, to_device(source, restored.device))


def fuse(images: Tensor, restored: Tensor, hidden: Tensor, source: Tensor | None = None) -> Tensor:
    """Average K restorations over their hidden pixels; keep the image where nothing was hidden (Eq. 2).

    images: ``(B, C, H, W)``; restored: ``(B, K, C, H, W)``; hidden: ``(B, K, g, g)`` bool. source: ``(B, K)`` int64,
    the restoration of each mask, which ``restored``, ``(N, C, H, W)``, then holds in any order.
    Returns ``(B, C, H, W)``, where the images are; pixels that no mask hides are bit-identical to the image.
    """
    height, width = images.shape[-2:]
    masks = hidden.shape[1]
    # (B, K, g, g) -> (B K, 1, H, W) -> (B, K, 1, H, W)
    pixels = tokens_to_pixels(to_device(hidden.flatten(0, 1), images.device), height, width)
    weights = pixels.unflatten(0, (-1, masks))
    fused = torch.empty_like(images)
    rows = max(1, _FUSED_PIXELS // max(1, len(images) * width))  # at a time, to bound memory
    for start in range(0, height, rows):
        some = slice(start, start + rows)
        total = torch.zeros_like(images[:, :, some])
        for mask in range(masks):  # one by one, so that the order of additions is the same in every batch
            one = restored[:, mask, :, some] if source is None else restored[:, :, some][source[:, mask]]
            total += one * weights[:, mask, :, some]
        count = weights[..., some, :].sum(dim=1, dtype=images.dtype)
        fused[:, :, some] = torch.where(count > 0, total / count.clamp(min=1), images[:, :, some])
    return fused


def restore_in_halves(state: State, rows: Tensor) -> Rounds[Tensor]:
    """Restore every token of some images from those of the other half, as on a chessboard: ``(R, C, H, W)``."""
    token = torch.arange(state.grid)
    white = (token.unsqueeze(1) + token) % 2 == 0  # (g, g)
    masks = torch.stack([white, ~white]).expand(len(rows), -1, -1, -1)
    restored = yield from state.restore(rows, masks)
    return fuse(state.images[rows], restored, masks)


def adaptive_masks(scores: Tensor, config: RestorationConfig) -> Tensor:
    """Threshold S at each level, raised for each image until at most ``max_restored`` of its tokens is hidden.

    scores: ``(B, g, g)``. Returns ``hidden``: ``(B, K, g, g)`` bool, nested: each mask contains the ones before it.
    """
    flat = scores.flatten(1)
    limit = config.max_restored * flat.shape[1]
    lowest = config.thresholds[-1]
    steps = torch.zeros(len(flat), dtype=torch.long)
    while True:
        # Computed from the number of steps, so that rounding errors do not accumulate.
        raised = (lowest + steps * config.threshold_step).unsqueeze(1)
        over = (flat >= raised).sum(dim=1) > limit
        if not over.any():
            break
        steps = steps + over.long()
    levels = torch.tensor(config.thresholds) + (steps * config.threshold_step).unsqueeze(1)  # (B, K)
    return scores.unsqueeze(1) >= levels[:, :, None, None]
