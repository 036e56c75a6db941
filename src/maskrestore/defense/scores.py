"""Trigger scores (section 4.2, Alg. 1): hide random tokens, restore them, see what changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.restoration import fuse
from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import pool_to_tokens
from maskrestore.imaging.ssim import ssim_map

__all__ = ["consensus", "contrast_scores", "flip_scores", "image_scores", "random_masks"]


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
    """How badly the restorations of each round resemble the image, token by token; the mean over all rounds is S_i.

    images: ``(B, C, H, W)``; restored: ``(B, N, N_i, C, H, W)``; hidden: ``(B, N, N_i, g, g)``, of N rounds.
    Returns ``(B, N, g, g)`` in [0, 2], where the masks are. Source: Eq. 2 and Alg. 1 lines 8-11.
    """
    rounds, grid = hidden.shape[1], hidden.shape[-1]
    # (B, N, N_i, ...) -> (B N, N_i, ...) -> (B N, C, H, W) -> (B, N, C, H, W)
    repeated = images.repeat_interleave(rounds, dim=0)
    fused = fuse(repeated, restored.flatten(0, 1), hidden.flatten(0, 1)).unflatten(0, (-1, rounds))
    similarity = ssim_map(images.unsqueeze(1), fused, window=config.ssim_window, sigma=config.ssim_sigma)
    # (B, N, H, W) -> (B N, g, g) -> (B, N, g, g)
    scores: Tensor = (1 - pool_to_tokens(similarity.flatten(0, 1), grid)).unflatten(0, (-1, rounds))
    return scores.to(hidden.device)


def flip_scores(flipped: Tensor, hidden: Tensor) -> Tensor:
    """S_l of the paper: how often the label changed with the token hidden, over all masks.

    flipped: ``(B, M)`` bool, whether mask ``m`` changed the label; hidden: ``(B, M, g, g)`` bool.
    Returns ``(B, g, g)`` in [0, 1]. Source: Alg. 1 line 12.
    """
    return (hidden & flipped[:, :, None, None]).float().mean(dim=1)


def contrast_scores(flipped: Tensor, hidden: Tensor, windows: Sequence[int] = (1,)) -> Tensor:
    """S_l as a contrast: ``P(flip | window hidden) - P(flip | window not wholly hidden)``, at least 0.

    With an imperfect restorer the label of a clean image flips under many masks wherever they are, which lifts the
    paper's S_l everywhere; the contrast removes that floor with the same queries. Windows are squares of
    ``k x k`` tokens for each ``k`` in ``windows``: a trigger that works as long as one of its tokens is visible
    shows little contrast token by token, but all of it when they are hidden together. A token scores as the best of
    the windows that contain it; one without evidence either way scores 0. Windows larger than the grid are left out.

    Shapes as :func:`flip_scores`. Departure: not in the paper.
    """
    best = torch.zeros_like(hidden[:, 0], dtype=torch.float32)
    for size in (size for size in windows if size <= hidden.shape[-1]):
        # A window is hidden if none of its tokens is visible. (B, M, g, g) -> (B, M, g - k + 1, g - k + 1)
        gone = F.max_pool2d((~hidden).float(), size, stride=1) == 0
        changed = flipped[:, :, None, None]
        gone_count, seen_count = gone.sum(dim=1), (~gone).sum(dim=1)
        rate_gone = (gone & changed).sum(dim=1) / gone_count.clamp(min=1)
        rate_seen = (~gone & changed).sum(dim=1) / seen_count.clamp(min=1)
        known = (gone_count > 0) & (seen_count > 0)
        contrast = torch.where(known, rate_gone - rate_seen, 0.0).clamp(min=0)
        # Give each token the best of its windows. (B, g - k + 1, g - k + 1) -> (B, g, g)
        spread = F.max_pool2d(F.pad(contrast, (size - 1,) * 4).unsqueeze(1), size, stride=1).squeeze(1)
        best = torch.maximum(best, spread)
    return best


def consensus(votes: Tensor, original: Tensor) -> Tensor:
    """How far the random masks agree on one label other than the original.

    votes: ``(B, M)`` int64, the label under each mask; original: ``(B,)`` int64. Returns ``(B,)`` in [0, 1]: the
    share of masks with the most frequent other label. Masks that break a trigger agree on the true label, masks that
    spoil a clean image scatter. Departure: not in the paper.
    """
    same = votes.unsqueeze(2) == votes.unsqueeze(1)  # (B, M, M): masks with equal labels
    return (same.float().mean(dim=2) * (votes != original.unsqueeze(1))).amax(dim=1)
