"""Adaptive restoration (section 4.4): restore with several thresholds and fuse (Eq. 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.runtime.devices import to_device
from maskrestore.types import Restorer

__all__ = ["adaptive_masks", "fuse", "restore_levels"]


def restore_levels(restorer: Restorer, images: Tensor, prepared: Any, hidden: Tensor) -> Tensor:
    """Restore each image under the mask of each threshold, and fuse the restorations.

    images: ``(B, C, H, W)``; prepared: what the restorer is given for them; hidden: ``(B, K, g, g)`` bool, nested, of
    :func:`adaptive_masks`. Returns ``(B, C, H, W)``.
    """
    # The last mask contains the others, and one that adds nothing needs no restoration of its own.
    # (B, K): tokens that each mask adds to the one before
    added = hidden.flatten(2).sum(dim=2).diff(dim=1, prepend=torch.zeros(len(hidden), 1, dtype=torch.long))
    image, level = (added > 0).nonzero(as_tuple=True)
    if not len(image):
        return images
    restored = restorer.restore(prepared[image], hidden[image, level])
    # Masks before an image's first restoration hide nothing, so it does not matter which one they are given.
    source = ((added > 0).flatten().cumsum(dim=0) - 1).clamp(min=0).view_as(added)
    return fuse(images, restored[to_device(source, restored.device)], hidden)


def fuse(images: Tensor, restored: Tensor, hidden: Tensor) -> Tensor:
    """Average K restorations over their hidden pixels; keep the image where nothing was hidden (Eq. 2).

    images: ``(B, C, H, W)``; restored: ``(B, K, C, H, W)``; hidden: ``(B, K, g, g)`` bool.
    Returns ``(B, C, H, W)``, where the images are; pixels that no mask hides are the image's own, bit for bit.
    """
    height, width = images.shape[-2:]
    masks = hidden.shape[1]
    # (B, K, g, g) -> (B K, 1, H, W) -> (B, K, 1, H, W)
    pixels = tokens_to_pixels(to_device(hidden.flatten(0, 1), images.device), height, width)
    weights = pixels.unflatten(0, (-1, masks)).to(images.dtype)
    total = torch.zeros_like(images)
    for mask in range(masks):  # one by one: the order of additions is then the same in every batch
        total = total + restored[:, mask] * weights[:, mask]
    count = weights.sum(dim=1)
    return torch.where(count > 0, total / count.clamp(min=1), images)


def adaptive_masks(scores: Tensor, config: BDMAEConfig) -> Tensor:
    """Threshold S at each level, raised for each image until at most ``max_restored`` of its tokens is hidden.

    scores: ``(B, g, g)``. Returns ``hidden``: ``(B, K, g, g)`` bool, nested: each mask contains the ones before it.
    """
    flat = scores.flatten(1)
    limit = config.max_restored * flat.shape[1]
    lowest = config.thresholds[-1]
    steps = torch.zeros(len(flat), dtype=torch.long)
    while True:
        # Counted in whole steps, not accumulated, so that an image's thresholds carry no rounding from the loop.
        raised = (lowest + steps * config.threshold_step).unsqueeze(1)
        over = (flat >= raised).sum(dim=1) > limit
        if not over.any():
            break
        steps = steps + over.long()
    levels = torch.tensor(config.thresholds) + (steps * config.threshold_step).unsqueeze(1)  # (B, K)
    return scores.unsqueeze(1) >= levels[:, :, None, None]
