"""Trigger scores (section 4.2, Alg. 1): hide random tokens, restore them, see what changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.restoration import fuse
from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import pool_to_tokens
from maskrestore.imaging.ssim import ssim_map

__all__ = ["contrast_scores", "flip_scores", "image_scores", "random_masks"]


def random_masks(streams: Sequence[Stream], grid: int, config: BDMAEConfig) -> Tensor:
    """Draw the scoring masks of each image.

    Returns ``hidden``: ``(B, N_o, N_i, g, g)`` bool, exactly ``mask_ratio`` of the tokens hidden in each mask. In a
    round, consecutive masks have as visible sets the consecutive parts of one permutation, so that two of them
    already hide every token at least once; when the permutation is used up, a new one is drawn.

    Departure: the authors' code tops up two of its five masks, which are then short of 75 %; here all are exact.
    """
    tokens = grid * grid
    visible_count = max(1, round((1 - config.mask_ratio) * tokens))
    parts = tokens // visible_count
    permutations = -(-config.masks_per_round // parts)  # ceil
    shape = (config.rounds, permutations, tokens)
    # (B, N_o, P, T): rank of each token in its permutation
    ranks = torch.stack([stream.uniform(0, shape=shape) for stream in streams]).argsort(dim=-1).argsort(dim=-1)
    part_of_token = ranks // visible_count
    part = torch.arange(parts).view(1, 1, 1, parts, 1)
    # (B, N_o, P, T) -> (B, N_o, P, parts, T) -> (B, N_o, P * parts, T)
    hidden = (part_of_token.unsqueeze(3) != part).flatten(2, 3)
    masks: Tensor = hidden[:, :, : config.masks_per_round].unflatten(-1, (grid, grid))
    return masks


def image_scores(images: Tensor, restored: Tensor, hidden: Tensor, config: BDMAEConfig) -> Tensor:
    """S_i: how badly the restorations of each round resemble the image, token by token.

    images: ``(B, C, H, W)``; restored: ``(B, N_o, N_i, C, H, W)``; hidden: ``(B, N_o, N_i, g, g)``.
    Returns ``(B, g, g)`` in [0, 2]. Source: Eq. 2 and Alg. 1 lines 8-11.
    """
    rounds, grid = hidden.shape[1], hidden.shape[-1]
    # (B, N_o, N_i, ...) -> (B N_o, N_i, ...)
    repeated = images.repeat_interleave(rounds, dim=0)
    fused = fuse(repeated, restored.flatten(0, 1), hidden.flatten(0, 1))
    similarity = ssim_map(repeated, fused, window=config.ssim_window, sigma=config.ssim_sigma)
    # (B N_o, H, W) -> (B N_o, g, g) -> (B, N_o, g, g) -> (B, g, g)
    scores: Tensor = (1 - pool_to_tokens(similarity, grid)).unflatten(0, (-1, rounds)).mean(dim=1)
    return scores


def flip_scores(flipped: Tensor, hidden: Tensor) -> Tensor:
    """S_l of the paper: how often the label changed with the token hidden, over all masks.

    flipped: ``(B, M)`` bool, whether mask ``m`` changed the label; hidden: ``(B, M, g, g)`` bool.
    Returns ``(B, g, g)`` in [0, 1]. Source: Alg. 1 line 12.
    """
    return (hidden & flipped[:, :, None, None]).float().mean(dim=1)


def contrast_scores(flipped: Tensor, hidden: Tensor) -> Tensor:
    """S_l as a contrast: ``P(flip | token hidden) - P(flip | token visible)``, at least 0.

    With an imperfect restorer the label of a clean image flips under many masks wherever they are, which lifts the
    paper's S_l everywhere; the contrast removes that floor with the same queries. A token that no mask shows (or
    none hides) has no evidence either way and scores 0.

    Shapes as :func:`flip_scores`. Departure: not in the paper.
    """
    changed = flipped[:, :, None, None]
    hidden_count, visible_count = hidden.sum(dim=1), (~hidden).sum(dim=1)
    rate_hidden = (hidden & changed).sum(dim=1) / hidden_count.clamp(min=1)
    rate_visible = (~hidden & changed).sum(dim=1) / visible_count.clamp(min=1)
    known = (hidden_count > 0) & (visible_count > 0)
    return torch.where(known, rate_hidden - rate_visible, 0.0).clamp(min=0)
