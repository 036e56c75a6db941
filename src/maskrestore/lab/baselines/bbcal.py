"""BBCaL: a detector. Growing noise changes the label of a triggered image unusually late, or unusually early."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key, Stream, gaussian_noise
from maskrestore.imaging.inputs import as_batch
from maskrestore.lab.baselines.base import Detection, check
from maskrestore.lab.baselines.first_change import Corruption, first_changes
from maskrestore.types import Classifier

__all__ = ["BBCaL", "BBCaLConfig"]


@dataclass(frozen=True, kw_only=True)
class BBCaLConfig:
    """Settings of :class:`BBCaL`. Raises ConfigError for a setting out of range.

    They are chosen by this project: the paper's magnitudes and thresholds come from clean images. On 100 training
    pictures the label of the provided clean CIFAR-10 classifier changes at level 7.5 on average, the middle.
    """

    weakest: float = 0.01
    """Standard deviation of the weakest noise, for pixels in [0, 1]."""
    strongest: float = 0.64
    """Standard deviation of the strongest noise."""
    levels: int = 13
    """Number of strengths, at equal ratios from the weakest to the strongest."""
    directions: int = 3
    """How many patterns of noise grow, one at a time. The score is the mean over them."""

    def __post_init__(self) -> None:
        bounds = (self.weakest, self.strongest)
        check(0 < self.weakest < self.strongest < math.inf, "weakest, strongest", "0 < weakest < strongest", bounds)
        check(self.levels >= 2, "levels", "at least 2", self.levels)
        check(self.directions >= 1, "directions", "at least 1", self.directions)

    def build(self, key: Key = 0) -> BBCaL:
        """Build the detector. ``key`` determines the noise."""
        return BBCaL(self, key=key)


class BBCaL:
    """How far the strength of noise at which the label changes is from the middle of all strengths.

    Counterfactual images are the image plus noise of growing strength. A trigger that is the same on all images
    withstands it longer than the content of a clean image; one that fits its image only is destroyed sooner. So both
    an early and a late change are suspicious. At most ``1 + levels * directions`` queries per image: stronger noise is
    not asked once the label has changed.

    Source: Guan et al., BBCaL: Black-box Backdoor Detection under the Causality Lens, Transactions on Machine Learning
    Research 2024. No public code was found, and only the abstract and reviews were at hand: the idea is the authors',
    the details are this project's. Departures where they are known: the strengths are this project's; an image is
    scored by the distance from the middle of the strengths, as there are no clean images in the blind setting to choose
    thresholds with.
    """

    def __init__(self, config: BBCaLConfig | None = None, *, key: Key = 0) -> None:
        self.config = BBCaLConfig() if config is None else config
        self.key = key

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score each of the ``(B, C, H, W)`` images independently, in [0, levels / 2]. Raises InvalidImageError."""
        noises = [self._noise(number) for number in range(self.config.directions)]
        found, queries = first_changes(
            as_batch(images), as_classifier(classifier), noises, levels=self.config.levels, key=self.key
        )
        middle = 1 + self.config.levels / 2  # of 1 to levels + 1
        return Detection(scores=(found - middle).abs().double().mean(dim=1), queries=queries)

    def _noise(self, number: int) -> Corruption:
        config = self.config
        ratio = math.pow(config.strongest / config.weakest, 1 / (config.levels - 1))

        def add(image: Tensor, stream: Stream, level: int) -> Tensor:
            noise = gaussian_noise(stream, number, shape=tuple(image.shape))
            return (image + config.weakest * math.pow(ratio, level) * noise).clamp(0, 1)

        return add
