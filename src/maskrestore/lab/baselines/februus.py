"""Februus: cut out what the network looks at, and paint it in again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key
from maskrestore.imaging.inputs import as_batch
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.completion import CIFAR10_MEAN, CompletionRestorer, load_completion
from maskrestore.lab.baselines.gradcam import CAMS, heat_maps, white_box
from maskrestore.mae.restorer import DEFAULT_RESTORER, load_restorer
from maskrestore.types import Classifier, Purification, Restorer

__all__ = ["Februus", "FebruusConfig"]


@dataclass(frozen=True, kw_only=True)
class FebruusConfig:
    """Settings of :class:`Februus`."""

    cam: Literal["xgradcam", "gradcam++"] = "xgradcam"
    """The heat map; the BDMAE paper reports both."""
    threshold: float = 0.7
    """Heat at or above this is cut out: 0.7 in the authors' code for CIFAR-10; the BDMAE paper tries 0.6, 0.7, 0.8."""
    layer: str | None = None
    """Name of the layer to look at, as in ``named_modules()``; None: see ``gradcam.target_layer``. It matters: the last
    stage of a ResNet has 4x4 positions for images of 32 pixels, whose map peaks one cell away from a trigger in the
    corner, so that thresholds of 0.7 and 0.8 miss it; ``stages.2``, of 8x8, finds it. On GTSRB it is the other way
    round: the last stage finds what ``stages.2`` misses."""
    restorer: str = DEFAULT_RESTORER
    """The masked autoencoder that paints in: a packaged name, a file, a folder or a hub name."""
    generator: str | None = None
    """A file with the weights of a completion network, to use it instead: see ``completion.load_completion``."""
    generator_size: int = 32
    """Side in pixels of the images that the generator was trained on."""
    generator_fill: tuple[float, float, float] = CIFAR10_MEAN
    """Mean colour of the generator's training images, in [0, 1]; holes are filled with it."""

    def __post_init__(self) -> None:
        check(self.cam in CAMS, "cam", f"one of {', '.join(CAMS)}", self.cam)
        check(0 < self.threshold <= 1, "threshold", "in (0, 1]", self.threshold)

    def build(self, key: Key = 0) -> Februus:
        """Load the inpainting network and build the defense, which draws no random numbers: ``key`` is not used."""
        if self.generator is None:
            return Februus(load_restorer(self.restorer), self)
        network = load_completion(self.generator)
        restorer = CompletionRestorer(network, image_size=self.generator_size, fill=self.generator_fill)
        return Februus(restorer, self)


class Februus:
    """Take the heat map of the predicted label, hide the hottest region, restore it, ask again.

    White box: the classifier must be a ``ModuleClassifier``, counted or not. Asks it twice per image, before and
    after, and once if nothing is hot; the pass for the gradients is no query.

    Source: Doan et al., Februus: Input Purification Defense Against Trojan Attacks, 2020, section 4;
    github.com/AdelaideAuto-IDLab/Februus ``scene/Februus.py``; BDMAE paper, appendices B and G.

    Departures: XGradCAM or GradCAM++ as in the BDMAE paper, instead of GradCAM. By default a masked autoencoder paints
    in: the authors train a GAN for every data set, on clean data that a blind defense does not have; ``generator``
    takes theirs. The region is rounded outwards to whole tokens. The restoration is pasted, not blended in.
    """

    def __init__(self, restorer: Restorer, config: FebruusConfig | None = None) -> None:
        self.restorer = restorer
        self.config = FebruusConfig() if config is None else config

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify ``(B, C, H, W)`` images in [0, 1], each on its own, and label them.

        ``scores`` of the result is the heat of each token, ``hidden`` what was painted in. Raises ConfigError for a
        black box.
        """
        module = white_box(classifier)
        batch, ask = as_batch(images), as_classifier(classifier)
        original = ask(batch)
        heat = heat_maps(module, batch, original, cam=self.config.cam, layer=self.config.layer)
        scores = self._by_token(heat)
        hidden = scores >= self.config.threshold
        purified = self.restorer.restore(batch, hidden)
        changed = hidden.flatten(1).any(dim=1)
        labels = original.clone()
        if changed.any():
            labels[changed] = ask(purified[changed])
        return Purification(
            images=purified,
            labels=labels,
            original_labels=original,
            queries=torch.ones_like(original) + changed.long(),
            hidden=hidden,
            scores=scores,
        )

    def _by_token(self, heat: Tensor) -> Tensor:
        """The hottest pixel of each token. ``(B, H, W)`` -> ``(B, g, g)``."""
        return F.adaptive_max_pool2d(heat.unsqueeze(1), self.restorer.grid).squeeze(1)
