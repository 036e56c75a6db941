"""Majority vote over noisy copies of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.errors import UnknownNameError
from maskrestore.lab.baselines.base import check, in_chunks, majority
from maskrestore.lab.baselines.transformations import gaussian_noise
from maskrestore.types import Classifier, Purification

__all__ = ["MajorityVote", "MajorityVoteConfig"]

_NOISES = ("gaussian", "uniform")


@dataclass(frozen=True, kw_only=True)
class MajorityVoteConfig:
    """Settings of :class:`MajorityVote`. The publication tunes them to a data set; these are the project's, and a
    half-width CIFAR-10 network loses 8 to 14 points of clean accuracy to them."""

    copies: int = 15
    """Noisy copies of an image that vote."""
    noise: Literal["gaussian", "uniform"] = "gaussian"
    strength: float = 0.03
    """Standard deviation of Gaussian noise, or half the width of uniform noise, in units of [0, 1] pixels."""

    def __post_init__(self) -> None:
        check(self.copies >= 1, "copies", "at least 1", self.copies)
        check(0 < self.strength < math.inf, "strength", "positive", self.strength)
        if self.noise not in _NOISES:
            raise UnknownNameError("noise", self.noise, _NOISES)

    def build(self, key: Key = 0) -> MajorityVote:
        """Build the defense; ``key`` decides the noise."""
        return MajorityVote(self, key=key)


class MajorityVote:
    """Add different noise to several copies of an image and answer with their most frequent label.

    Asks ``1 + copies`` times per image. The purified image is the first copy with that label. A tie goes to the
    largest label.

    Source: Sarkar, Alkindi and Maniatakos, Backdoor Suppression in Neural Networks using Input Fuzzing and Majority
    Voting, IEEE Design & Test 37(2), 2020; BDMAE paper, appendix F.5.
    Departures: one kind and strength of noise for all data sets, because the blind user has no clean and triggered
    images to choose them with.
    """

    def __init__(self, config: MajorityVoteConfig | None = None, *, key: Key = 0, chunk_size: int = 64) -> None:
        """chunk_size: images worked on at a time; it bounds memory and changes no result."""
        self.config = MajorityVoteConfig() if config is None else config
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify ``(B, C, H, W)`` images in [0, 1], each on its own, and label them. Raises InvalidImageError."""
        return in_chunks(images, classifier, self._purify_chunk, chunk_size=self.chunk_size)

    def _purify_chunk(self, images: Tensor, ask: Classifier) -> Purification:
        copies = torch.stack([self._fuzzed(image) for image in images])  # (B, N, C, H, W)
        original = ask(images)
        votes = ask(copies.flatten(0, 1)).view(copies.shape[:2])  # (B N,) -> (B, N)
        labels = majority(votes)
        first = (votes == labels.unsqueeze(1)).int().argmax(dim=1)
        return Purification(
            images=copies[torch.arange(len(images)), first],
            labels=labels,
            original_labels=original,
            queries=torch.full_like(original, 1 + self.config.copies),
        )

    def _fuzzed(self, image: Tensor) -> Tensor:
        """``(C, H, W)`` -> ``(N, C, H, W)``."""
        stream, shape = Stream(self.key, image), (self.config.copies, *image.shape)
        if self.config.noise == "gaussian":
            noise = gaussian_noise(stream, 0, shape=shape)
        else:
            noise = 2 * stream.uniform(0, shape=shape) - 1
        return (image + self.config.strength * noise).clamp(0, 1)
