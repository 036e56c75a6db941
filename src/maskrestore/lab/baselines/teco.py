"""TeCo: a detector. A triggered image withstands some corruptions much better than others, a clean one does not."""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key
from maskrestore.errors import UnknownNameError
from maskrestore.imaging.inputs import as_batch
from maskrestore.lab.baselines.base import Detection, check
from maskrestore.lab.baselines.corruptions import CORRUPTIONS, LEVELS
from maskrestore.lab.baselines.first_change import first_changes
from maskrestore.types import Classifier

__all__ = ["TeCo", "TeCoConfig"]


@dataclass(frozen=True, kw_only=True)
class TeCoConfig:
    """Settings of :class:`TeCo`. Raises ConfigError for fewer than two corruptions, UnknownNameError for others."""

    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    """Names of ``CORRUPTIONS``."""

    def __post_init__(self) -> None:
        check(len(self.corruptions) >= 2, "corruptions", "two or more names", self.corruptions)
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UnknownNameError("corruption", name, CORRUPTIONS)

    def build(self, key: Key = 0) -> TeCo:
        """Build the detector. ``key`` determines the noise and the directions of motion."""
        return TeCo(self, key=key)


class TeCo:
    """Corruption robustness consistency: how much the level at which the label changes differs between corruptions.

    For each corruption, the first of five levels that changes the label counts, 6 if none does. The score is the
    standard deviation over the corruptions. At most 51 queries per image: higher levels are not asked once the label
    has changed, which does not change the score.

    Source: Liu et al., Detecting Backdoors During the Inference Stage Based on Corruption Robustness Consistency, CVPR
    2023; github.com/CGCL-codes/TeCo.
    Departures: ten of its fifteen corruptions, see ``corruptions.py``. Each corrupts the image itself; in the version
    of the code in BackdoorBench they pile up.
    """

    def __init__(self, config: TeCoConfig | None = None, *, key: Key = 0) -> None:
        self.config = TeCoConfig() if config is None else config
        self.key = key

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score each of the ``(B, C, H, W)`` images independently, in [0, 2.5]. Raises InvalidImageError."""
        chosen = [CORRUPTIONS[name] for name in self.config.corruptions]
        found, queries = first_changes(as_batch(images), as_classifier(classifier), chosen, levels=LEVELS, key=self.key)
        # variance from whole numbers, so that it does not depend on the batch
        count = found.shape[1]
        spread = count * found.square().sum(dim=1) - found.sum(dim=1).square()
        return Detection(scores=spread.double().sqrt() / count, queries=queries)
