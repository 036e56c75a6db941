"""SCALE-UP: a detector. The label of a triggered image stays the same when its pixels are multiplied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key
from maskrestore.imaging.inputs import as_batch
from maskrestore.lab.baselines.base import Detection, check
from maskrestore.types import Classifier

__all__ = ["ScaleUp", "ScaleUpConfig"]


@dataclass(frozen=True, kw_only=True)
class ScaleUpConfig:
    """Settings of :class:`ScaleUp`. Raises ConfigError when ``multiples`` is empty or not positive."""

    multiples: tuple[float, ...] = (3, 5, 7, 9, 11)
    """Factors by which the pixels are multiplied, as in the public code."""

    def __post_init__(self) -> None:
        valid = len(self.multiples) > 0 and min(self.multiples) > 0
        check(valid, "multiples", "one or more positive numbers", self.multiples)

    def build(self, key: Key = 0) -> ScaleUp:
        """Build the detector. It is deterministic: ``key`` is not used."""
        return ScaleUp(self)


class ScaleUp:
    """Scaled prediction consistency: the share of factors that leave the label unchanged.

    ``1 + len(multiples)`` queries per image.

    Source: Guo et al., SCALE-UP, ICLR 2023, the data-free setting;
    github.com/THUYimingLi/BackdoorBox ``core/defenses/SCALE_UP.py``, which clips multiplied pixels to [0, 1].
    Departures: none. The data-limited setting, which standardises scores with clean images of each class, is left out:
    in the blind setting there are no such images.
    """

    def __init__(self, config: ScaleUpConfig | None = None) -> None:
        self.config = ScaleUpConfig() if config is None else config

    def score(self, images: object, classifier: Classifier) -> Detection:
        """Score each of the ``(B, C, H, W)`` images independently, in [0, 1]. Raises InvalidImageError."""
        batch, ask = as_batch(images), as_classifier(classifier)
        original = ask(batch)
        kept = torch.stack([ask(_multiplied(batch, n)) == original for n in self.config.multiples])  # (N, B)
        return Detection(
            scores=kept.double().mean(dim=0),
            queries=torch.full_like(original, 1 + len(self.config.multiples)),
        )


def _multiplied(images: Tensor, factor: float) -> Tensor:
    return (images * factor).clamp(0, 1)
