"""Majority vote over noisy copies of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, Stream, gaussian_noise
from maskrestore.errors import UnknownNameError
from maskrestore.lab.baselines.base import check, in_chunks, majority
from maskrestore.types import Classifier, Purification

__all__ = ["MajorityVote", "MajorityVoteConfig"]

_NOISES = ("gaussian", "uniform")


@dataclass(frozen=True, kw_only=True)
class MajorityVoteConfig:
    """Settings of :class:`MajorityVote`. Raises ConfigError for a setting out of range.

    The publication tunes them for each data set. The defaults are chosen by this project; they cost a half-width
    CIFAR-10 network 8 to 14 points of clean accuracy.
    """

    copies: int = 15
    """Number of noisy copies of an image."""
    noise: Literal["gaussian", "uniform"] = "gaussian"
    strength: float = 0.03
    """Standard deviation of Gaussian noise, or half the range of uniform noise, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        check(self.copies >= 1, "copies", "at least 1", self.copies)
        check(0 < self.strength < math.inf, "strength", "positive", self.strength)
        if self.noise not in _NOISES:
            raise UnknownNameError("noise", self.noise, _NOISES)

    def build(self, key: Key = 0) -> MajorityVote:
        """Build the defense. ``key`` determines the noise."""
        return MajorityVote(self, key=key)


class MajorityVote:
    """Adds different noise to several copies of an image and returns their most frequent label.

    ``1 + copies`` queries per image. The purified image is the first copy with that label. Of equally frequent labels
    the largest wins.

    Source: Sarkar, Alkindi and Maniatakos, Backdoor Suppression in Neural Networks using Input Fuzzing and Majority
    Voting, IEEE Design & Test 37(2), 2020; BDMAE paper, appendix F.5.
    Departures: one kind and strength of noise for all data sets, because in the blind setting there are no clean and
    triggered images to choose them with.
    """

    def __init__(self, config: MajorityVoteConfig | None = None, *, key: Key = 0, chunk_size: int = 64) -> None:
        """chunk_size: images processed at a time, to bound memory. Results do not depend on it."""
        self.config = MajorityVoteConfig() if config is None else config
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify each of the ``(B, C, H, W)`` images in [0, 1] independently and label it. Raises InvalidImageError."""
        return in_chunks(images, classifier, self._purify_chunk, chunk_size=self.chunk_size)

    def _purify_chunk(self, images: Tensor, ask: Classifier) -> Purification:
        copies = torch.stack([self._noisy_copies(image) for image in images])  # (B, N, C, H, W)
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

    def _noisy_copies(self, image: Tensor) -> Tensor:
        """Return N noisy copies in [0, 1]. ``(C, H, W)`` -> ``(N, C, H, W)``."""
        stream, shape = Stream(self.key, image), (self.config.copies, *image.shape)
        if self.config.noise == "gaussian":
            noise = gaussian_noise(stream, 0, shape=shape)
        else:
            noise = 2 * stream.uniform(0, shape=shape) - 1
        return (image + self.config.strength * noise).clamp(0, 1)
