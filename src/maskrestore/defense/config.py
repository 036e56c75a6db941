"""Every constant of the method, with its place in the paper, and the two profiles."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from maskrestore.defense.beyond_paper.group_testing import sweep_queries
from maskrestore.defense.beyond_paper.transfer import CLOUD_GRIDS, CLOUDS, FINE_CLOUD_GRIDS, transfer_queries
from maskrestore.errors import ConfigError, UnknownNameError

__all__ = ["MOST_QUERIES", "PROFILES", "BDMAEConfig", "profile"]

MOST_QUERIES = 47
"""No profile or schedule asks more about an image: the paper's 1 + 25 + 20 + 1."""

_KINDS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "True or False"),
    "tuple": (tuple, "a tuple"),
}
"""What a setting must be, by its annotation."""


@dataclass(frozen=True, kw_only=True)
class BDMAEConfig:
    """Settings of :class:`maskrestore.defense.bdmae.BDMAE`.

    The field defaults are the profile ``paper``; to change the default profile,
    ``dataclasses.replace(PROFILES["default"], votes=10)``. Raises ConfigError.
    """

    rounds: int = 5
    """N_o: rounds of masks, each of which hides every token at least once (4.2)."""
    masks_per_round: int = 5
    """N_i: random masks in a round (4.2)."""
    mask_ratio: float = 0.75
    """Share of tokens that a random mask hides (4.2)."""
    ssim_window: int = 11
    """Side of the Gaussian SSIM window in pixels, odd (appendix D)."""
    ssim_sigma: float = 1.5
    """Standard deviation of that window in pixels (appendix D)."""
    label_score: Literal["flip", "contrast"] = "flip"
    """S_l: ``flip`` is the paper's (4.2); ``contrast`` subtracts the flip rate while the token is visible."""
    contrast_windows: tuple[int, ...] = (1,)
    """Sides, in tokens, of the squares whose contrast counts; only for ``label_score="contrast"``."""
    label_weight: float = 0.5
    """Weight of S_l in S = (1 - w) S_i + w S_l; the paper averages (4.4). 0 and 1 are the variants Base-i, Base-l."""
    consensus: bool = False
    """Not in the paper: S is at least S_i times the share of random masks that agree on one other label."""
    refinement_steps: int = 10
    """N_r: steps of topology-aware refinement of each score (4.3)."""
    candidate_threshold: float = 0.2
    """S_i at or above this makes a token a candidate for the refinement of S_i (4.3)."""
    neighbour_bonus: float = 0.5
    """u: added to the score of tokens next to the growing set (4.3, F.1)."""
    refinement_rate: float = 0.05
    """beta_0: change of a candidate's score in a refinement step (Alg. 2)."""
    thresholds: tuple[float, ...] = (0.6, 0.55, 0.5, 0.45, 0.4)
    """tau_1 >= ... >= tau_K: one restoration each, fused (4.4, 5.1)."""
    max_restored: float = 0.25
    """Thresholds rise together until at most this share of the tokens reaches the lowest (4.4)."""
    threshold_step: float = 0.01
    """How much they rise at a time; the paper says "a small amount" (4.4)."""
    attempts: tuple[float, ...] = (0.0,)
    """By how much the thresholds are lowered in each attempt to restore; attempts end with the first restoration that
    is believed. The paper has one attempt and believes it."""
    transfer_test: bool = False
    """Not in the paper: a restoration is believed only if it changes the label and the region that it replaces
    decides the label of other pictures, too; else the image is left as it came. See ``transfer.py``."""
    clouds: int = CLOUDS
    """Pictures of random colour that the transfer test and the sweep ask about, the first of the next setting."""
    cloud_grids: tuple[int, ...] = CLOUD_GRIDS
    """Colours along each side of each of these pictures, the one that tells most first."""
    square_cloud_grids: tuple[int, ...] = FINE_CLOUD_GRIDS
    """The same for squares."""
    enough_clouds: int = 2
    """So many of these pictures, or all if there are fewer, must get the label in the first attempt; in later ones and
    with squares all of them."""
    comparison: bool = True
    """Whether the transfer test looks for a trigger with a target for each class, too, in the first
    attempt."""
    squares: int = 0
    """Not in the paper: how many squares of the highest S_i are hidden, one after the other, where the attempts failed.
    See ``squares.py``."""
    square_side: float = 0.4375
    """Their side, as a share of the image's; ``max_restored`` does not bound it."""
    square_label_weight: float = 0.25
    """Weight w of the share of random masks that changed the label in the score of a square; 1 - w is that of its mean
    S_i."""
    square_threshold: float = 0.425
    """Score from which a square is worth hiding."""
    square_limit: int = MOST_QUERIES
    """Queries for an image, all in all, beyond which no further square is hidden."""
    votes: int | None = None
    """How many of the random masks the classifier is asked about; ``None`` is all of them. The others count for S_i
    only, which needs no query."""
    blind: bool = False
    """Whether the image itself is not asked about: S_i alone says what to restore, and the label of the restored image
    is the answer, and stands for the original one, too."""
    sweep: bool = False
    """Not in the paper: hide window after window first; an image that this settles needs no random mask."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, annotation = getattr(self, field.name), str(field.type)
            kind, expected = _KINDS.get(annotation.partition("[")[0].removesuffix(" | None"), (object, ""))
            optional = annotation.endswith(" | None") and value is None
            _check(optional or isinstance(value, kind), field.name, expected, value)
        _check(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        _check(self.masks_per_round >= 2, "masks_per_round", "at least 2", self.masks_per_round)
        _check(0.5 <= self.mask_ratio < 1, "mask_ratio", "in [0.5, 1)", self.mask_ratio)
        _check(self.ssim_window % 2 == 1, "ssim_window", "odd", self.ssim_window)
        _check(self.ssim_sigma > 0, "ssim_sigma", "positive", self.ssim_sigma)
        _check(self.label_score in ("flip", "contrast"), "label_score", "flip or contrast", self.label_score)
        windows = len(self.contrast_windows) > 0 and min(self.contrast_windows) >= 1
        _check(windows, "contrast_windows", "one or more sides of at least 1", self.contrast_windows)
        _check(0 <= self.label_weight <= 1, "label_weight", "in [0, 1]", self.label_weight)
        _check(self.refinement_steps >= 0, "refinement_steps", "at least 0", self.refinement_steps)
        _check(math.isfinite(self.candidate_threshold), "candidate_threshold", "finite", self.candidate_threshold)
        _check(self.neighbour_bonus >= 0, "neighbour_bonus", "at least 0", self.neighbour_bonus)
        _check(self.refinement_rate >= 0, "refinement_rate", "at least 0", self.refinement_rate)
        ordered = len(self.thresholds) > 0 and list(self.thresholds) == sorted(self.thresholds, reverse=True)
        _check(ordered, "thresholds", "one or more, highest first", self.thresholds)
        _check(0 < self.max_restored <= 1, "max_restored", "in (0, 1]", self.max_restored)
        _check(self.threshold_step > 0, "threshold_step", "positive", self.threshold_step)
        _check(
            len(self.attempts) > 0 and min(self.attempts) >= 0, "attempts", "one or more of at least 0", self.attempts
        )
        single = self.transfer_test or len(self.attempts) == 1
        _check(single, "attempts", "a single one without the transfer test, which would believe it", self.attempts)
        _check(self.squares >= 0, "squares", "at least 0", self.squares)
        _check(self.transfer_test or not self.squares, "squares", "0 without the transfer test", self.squares)
        _check(0 < self.square_side <= 1, "square_side", "in (0, 1]", self.square_side)
        _check(self.square_limit >= 1, "square_limit", "at least 1", self.square_limit)
        _check(0 <= self.square_label_weight <= 1, "square_label_weight", "in [0, 1]", self.square_label_weight)
        _check(math.isfinite(self.square_threshold), "square_threshold", "finite", self.square_threshold)
        for name in ("cloud_grids", "square_cloud_grids"):
            grids = getattr(self, name)
            enough = len(grids) >= self.clouds and min(grids) >= 1
            _check(enough, name, "a number of at least 1 for each of the clouds", grids)
        _check(self.clouds >= 1, "clouds", "at least 1", self.clouds)
        _check(self.enough_clouds >= 1, "enough_clouds", "at least 1", self.enough_clouds)
        _check(0 <= self.voting_masks <= self.masks, "votes", f"0 to {self.masks}", self.votes)

    def in_force(self) -> dict[str, Any]:
        """Every setting by name, those of schedules, clouds and squares only where they are in use: the digests of
        results that were measured before there were any stay the same."""
        values = asdict(self)
        for name in ("clouds", "square_cloud_grids", "comparison", "votes", "blind", "sweep", "squares"):
            if values[name] == getattr(BDMAEConfig, name):
                del values[name]
        if not self.transfer_test:
            del values["enough_clouds"]
        # Without squares there are results of other clouds.
        if (self.squares or not (self.transfer_test or self.sweep)) and self.cloud_grids == CLOUD_GRIDS:
            del values["cloud_grids"]
        if not self.squares:
            for name in ("square_side", "square_label_weight", "square_threshold", "square_limit"):
                del values[name]
        return values

    @property
    def masks(self) -> int:
        """Random masks in all."""
        return self.rounds * self.masks_per_round

    @property
    def voting_masks(self) -> int:
        """Random masks that the classifier is asked about."""
        return self.masks if self.votes is None else self.votes

    @property
    def max_queries(self) -> int:
        """Queries per image at most: the image, the random masks, both refinements, the attempts with their tests.

        Squares take what is left to ``square_limit``.
        """
        if self.blind:
            return 1
        tested = transfer_queries(self.clouds, compare=False) if self.transfer_test else 0
        masks = 1 + self.voting_masks + 2 * self.refinement_steps + len(self.attempts) * (1 + tested)
        if self.transfer_test and self.comparison:
            masks += transfer_queries(self.clouds, compare=True) - tested
        if self.sweep:
            settled, left_open = sweep_queries(self.clouds)
            masks = max(settled, left_open - 1 + masks)
        return max(masks, min(masks + self.squares * (1 + tested), self.square_limit))


def profile(config: BDMAEConfig | str) -> BDMAEConfig:
    """Settings as they are, or those of a profile by its name. Raises UnknownNameError, and ConfigError for neither."""
    if isinstance(config, str):
        if config not in PROFILES:
            raise UnknownNameError("profile", config, PROFILES)
        return PROFILES[config]
    if not isinstance(config, BDMAEConfig):
        raise ConfigError(f"expected a BDMAEConfig or the name of a profile, got a {type(config).__name__}")
    return config


def _check(valid: bool, name: str, expected: str, actual: object) -> None:
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {actual!r}")


PROFILES: dict[str, BDMAEConfig] = {
    "paper": BDMAEConfig(),
    # Chosen on training-split images of CIFAR-10 and GTSRB victims. Contrast in place of flips: labels of
    # clean images flip under many of this restorer's masks. Consensus: a trigger that any hidden token breaks leaves no
    # contrast, but makes the masks agree on the true label. The transfer test spares clean images what these scores
    # find in them, so that a second attempt may be bolder. Squares: large faint triggers survive where scattered tokens
    # are hidden. No refinement: it looks for tokens whose loss flips the label, finds them on clean images too, and
    # costs 20 queries, more than the test does.
    "default": BDMAEConfig(
        label_score="contrast",
        contrast_windows=(1, 2),
        label_weight=0.6,
        consensus=True,
        refinement_steps=0,
        thresholds=(0.65, 0.6, 0.55, 0.5, 0.45),
        attempts=(0.0, 0.2),
        transfer_test=True,
        squares=5,
    ),
}
