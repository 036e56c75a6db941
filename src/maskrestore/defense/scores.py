"""Trigger scores (section 4.2, Alg. 1): hide random tokens, restore them, and compare image and label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.consensus import consensus
from maskrestore.defense.beyond_paper.contrast import contrast_scores
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.restoration import fuse
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import pool_to_tokens
from maskrestore.imaging.ssim import ssim_map
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = [
    "MaskAnswers",
    "MaskConfig",
    "ScoreConfig",
    "combined_scores",
    "flip_scores",
    "image_scores",
    "random_masks",
    "score",
]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The random masks of section 4.2. Raises ConfigError."""

    rounds: int = 5
    """N_o: rounds of masks; in each round every token is hidden at least once (4.2)."""
    per_round: int = 5
    """N_i: random masks in a round (4.2)."""
    hidden_ratio: float = 0.75
    """Share of tokens that a mask hides (4.2)."""
    asked: int | None = None
    """Query the classifier for the first ``asked`` masks only; ``None``: for all. The other masks are used for S_i,
    which needs no query. Not in the paper."""

    def __post_init__(self) -> None:
        check_types(self)
        check(self.rounds >= 1, "masks.rounds", "at least 1", self.rounds)
        check(self.per_round >= 2, "masks.per_round", "at least 2", self.per_round)
        check(0.5 <= self.hidden_ratio < 1, "masks.hidden_ratio", "in [0.5, 1)", self.hidden_ratio)
        check(0 <= self.max_queries <= self.count, "masks.asked", f"0 to {self.count}", self.asked)

    @property
    def count(self) -> int:
        """Number of random masks for an image."""
        return self.rounds * self.per_round

    @property
    def max_queries(self) -> int:
        """Queries for an image: one for each queried mask."""
        return self.count if self.asked is None else self.asked


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How the trigger scores are computed (4.2) and combined (4.4). Raises ConfigError."""

    ssim_window: int = 11
    """Side of the Gaussian SSIM window in pixels, odd (appendix D)."""
    ssim_sigma: float = 1.5
    """Standard deviation of that window in pixels (appendix D)."""
    label_score: Literal["flip", "contrast"] = "flip"
    """S_l: ``flip`` is the paper's (4.2); for ``contrast`` see ``beyond_paper/contrast.py``."""
    contrast_windows: tuple[int, ...] = (1,)
    """Sides, in tokens, of the squares whose contrast is computed; only for ``contrast``."""
    label_weight: float = 0.5
    """Weight w of S_l in S = (1 - w) S_i + w S_l. The paper averages (4.4); 0 and 1 are its Base-i and Base-l."""
    consensus: bool = False
    """Raise S if the masks agree on one other label: see ``beyond_paper/consensus.py``."""

    def __post_init__(self) -> None:
        check_types(self)
        check(self.ssim_window % 2 == 1, "scores.ssim_window", "odd", self.ssim_window)
        check(self.ssim_sigma > 0, "scores.ssim_sigma", "positive", self.ssim_sigma)
        windows = len(self.contrast_windows) > 0 and min(self.contrast_windows) >= 1
        check(windows, "scores.contrast_windows", "one or more sides of at least 1", self.contrast_windows)
        check(0 <= self.label_weight <= 1, "scores.label_weight", "in [0, 1]", self.label_weight)


@dataclass(frozen=True, kw_only=True)
class MaskAnswers:
    """Results of the random masks for ``R`` images."""

    image_scores: Tensor
    """``(R, g, g)``: S_i."""
    label_scores: Tensor
    """``(R, g, g)``: S_l; 0 if no mask was queried."""
    hidden: Tensor
    """``(R, M, g, g)`` bool: the queried masks; M is 0 if none was."""
    original: Tensor
    """``(R,)`` int64: labels of the original images."""
    labels: Tensor
    """``(R, M)`` int64: labels under the queried masks; of the original images if none was, ``(R, 1)``."""

    @property
    def changed(self) -> Tensor:
        """``(R,)`` in [0, 1]: share of the queried masks that changed the label."""
        return (self.labels != self.original.unsqueeze(1)).float().mean(dim=1)


def score(
    state: State, rows: Tensor, masks: MaskConfig, config: ScoreConfig, *, masked_pixels: int
) -> Rounds[MaskAnswers]:
    """Restore the images under all random masks, query the classifier for the first of them, and score each token.

    masked_pixels: pixels of images whose masks are all restored in one call. For larger images, fewer rounds of masks
    are restored per call, at least one. It bounds memory and changes no result.
    """
    images = state.images[rows]
    hidden = random_masks(state.streams(rows), state.grid, masks)  # (R, N_o, N_i, g, g)
    fitting = max(1, masks.rounds * masked_pixels // (len(rows) * images.shape[-2] * images.shape[-1]))
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    left = masks.max_queries
    for some in hidden.split(fitting, dim=1):
        restored = yield from state.restore(rows, some.flatten(1, 2))
        by_round = restored.unflatten(1, some.shape[1:3])
        of_rounds = image_scores(images, by_round, to_device(some, images.device), config)
        labels.append((yield from state.oracle.ask(rows, restored[:, :left])))
        left -= labels[-1].shape[1]
        scores.append(of_rounds.cpu())  # after the query, so that the GPU is busy while the host waits
        del restored, by_round  # before the next ones are made
    s_i, answers = torch.cat(scores, dim=1).mean(dim=1), torch.cat(labels, dim=1)
    original, asked = state.original[rows], hidden.flatten(1, 2)[:, : masks.max_queries]
    if masks.max_queries == 0:
        s_l, answers = torch.zeros_like(s_i), original.unsqueeze(1)
    elif config.label_score == "contrast":
        s_l = contrast_scores(answers != original.unsqueeze(1), asked, config.contrast_windows)
    else:
        s_l = flip_scores(answers != original.unsqueeze(1), asked)
    return MaskAnswers(image_scores=s_i, label_scores=s_l, hidden=asked, original=original, labels=answers)


def random_masks(streams: Sequence[Stream], grid: int, config: MaskConfig) -> Tensor:
    """Draw the scoring masks of each image.

    Returns ``hidden``: ``(B, N_o, N_i, g, g)`` bool. Each mask hides ``hidden_ratio`` of the tokens. The visible tokens
    of consecutive masks of a round are consecutive parts of one permutation, so that any two of them hide every token
    at least once. When a permutation is used up, a new one is drawn.

    Departure: in the authors' code two of the five masks hide less than 75 %; here all hide the same share.
    """
    tokens = grid * grid
    visible_count = max(1, round((1 - config.hidden_ratio) * tokens))
    parts = tokens // visible_count
    permutations = -(-config.per_round // parts)  # ceil
    shape = (config.rounds, permutations, tokens)
    # (B, N_o, P, T): rank of each token in its permutation
    ranks = torch.stack([stream.uniform(0, shape=shape) for stream in streams]).argsort(dim=-1).argsort(dim=-1)
    part_of_token = ranks // visible_count
    part = torch.arange(parts).view(1, 1, 1, parts, 1)
    # (B, N_o, P, T) -> (B, N_o, P, parts, T) -> (B, N_o, P * parts, T)
    hidden = (part_of_token.unsqueeze(3) != part).flatten(2, 3)
    masks: Tensor = hidden[:, :, : config.per_round].unflatten(-1, (grid, grid))
    return masks


def image_scores(images: Tensor, restored: Tensor, hidden: Tensor, config: ScoreConfig) -> Tensor:
    """How much the restorations of each round differ from the image at each token. The mean over all rounds is S_i.

    images: ``(B, C, H, W)``; restored: ``(B, N, N_i, C, H, W)``; hidden: ``(B, N, N_i, g, g)``, of N rounds.
    Returns ``(B, N, g, g)`` in [0, 2], on the device of the masks. Source: Eq. 2 and Alg. 1 lines 8-11.
    """
    rounds, grid = hidden.shape[1], hidden.shape[-1]
    # (B, N, N_i, ...) -> (B N, N_i, ...) -> (B N, C, H, W) -> (B, N, C, H, W)
    repeated = images.repeat_interleave(rounds, dim=0) if rounds > 1 else images
    fused = fuse(repeated, restored.flatten(0, 1), hidden.flatten(0, 1)).unflatten(0, (-1, rounds))
    similarity = ssim_map(images.unsqueeze(1), fused, window=config.ssim_window, sigma=config.ssim_sigma)
    # (B, N, H, W) -> (B N, g, g) -> (B, N, g, g)
    scores: Tensor = (1 - pool_to_tokens(similarity.flatten(0, 1), grid)).unflatten(0, (-1, rounds))
    return scores.to(hidden.device)


def flip_scores(flipped: Tensor, hidden: Tensor) -> Tensor:
    """S_l of the paper: the share of all masks that hide the token and change the label.

    flipped: ``(B, M)`` bool, whether mask ``m`` changed the label; hidden: ``(B, M, g, g)`` bool.
    Returns ``(B, g, g)`` in [0, 1]. Source: Alg. 1 line 12.
    """
    return (hidden & flipped[:, :, None, None]).float().mean(dim=1)


def combined_scores(
    image_scores: Tensor, label_scores: Tensor, seen: MaskAnswers, masks: MaskConfig, config: ScoreConfig
) -> Tensor:
    """S, from both scores after refinement: ``(R, g, g)`` each. Source: section 4.4."""
    weight = config.label_weight if masks.max_queries else 0.0  # without queries there is no S_l
    scores = (1 - weight) * image_scores + weight * label_scores
    if config.consensus:
        agreed = consensus(seen.labels, seen.original)
        scores = torch.maximum(scores, agreed[:, None, None] * image_scores)
    return scores
