"""Februus: hide the region that the network relies on, and restore it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from maskrestore.classifiers import as_classifier
from maskrestore.defense.streams import Key
from maskrestore.imaging.inputs import as_batch
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.completion import CIFAR10_MEAN, CompletionRestorer, load_completion
from maskrestore.lab.baselines.gradcam import CAMS, heat_maps, white_box
from maskrestore.mae.choice import DEFAULT_RESTORER, load_restorer, restorer_for
from maskrestore.types import Classifier, Purification, Restorer, RestorerChoice

__all__ = ["Februus", "FebruusConfig"]


@dataclass(frozen=True, kw_only=True)
class FebruusConfig:
    """Settings of :class:`Februus`. Raises ConfigError for a setting out of range."""

    cam: Literal["xgradcam", "gradcam++"] = "xgradcam"
    """The heat map. The BDMAE paper reports both."""
    threshold: float = 0.7
    """Tokens with at least this heat, in (0, 1], are hidden: 0.7 in the authors' code for CIFAR-10; the BDMAE paper
    tries 0.6, 0.7 and 0.8."""
    layer: str | None = None
    """Name of the layer for the heat map, as in ``named_modules()``; None: see ``gradcam.target_layer``. The choice
    matters. For images of 32 pixels the last stage of a ResNet has 4x4 positions; its map peaks one cell away from a
    trigger in the corner, so thresholds of 0.7 and 0.8 miss the trigger. ``stages.2`` with 8x8 positions finds it. On
    GTSRB the opposite holds: the last stage finds triggers that ``stages.2`` misses."""
    restorer: str = DEFAULT_RESTORER
    """The masked autoencoder that restores: ``auto``, a packaged name, a file, a folder or a hub name."""
    generator: str | None = None
    """A file with the weights of a completion network, used instead of ``restorer``: see
    ``completion.load_completion``."""
    generator_size: int = 32
    """Side of the generator's training images in pixels."""
    generator_fill: tuple[float, float, float] = CIFAR10_MEAN
    """Mean colour of the generator's training images, RGB in [0, 1]. Hidden pixels are filled with it."""

    def __post_init__(self) -> None:
        check(self.cam in CAMS, "cam", f"one of {', '.join(CAMS)}", self.cam)
        check(0 < self.threshold <= 1, "threshold", "in (0, 1]", self.threshold)

    def build(self, key: Key = 0) -> Februus:
        """Load the inpainting network and build the defense. It is deterministic: ``key`` is not used.

        Raises what ``load_restorer`` or ``load_completion`` raises.
        """
        if self.generator is None:
            return Februus(load_restorer(self.restorer), self)
        network = load_completion(self.generator)
        restorer = CompletionRestorer(network, image_size=self.generator_size, fill=self.generator_fill)
        return Februus(restorer, self)


class Februus:
    """Computes the heat map of the predicted label, hides the hottest region, restores it and queries again.

    White box: the classifier must be a ``torch.nn.Module`` or a ``ModuleClassifier``, counted or not. Two queries per
    image, before and after, or one if no token reaches the threshold. The pass for the gradients is not counted.

    Source: Doan et al., Februus: Input Purification Defense Against Trojan Attacks, 2020, section 4;
    github.com/AdelaideAuto-IDLab/Februus ``scene/Februus.py``; BDMAE paper, appendices B and G.

    Departures: XGradCAM or GradCAM++ as in the BDMAE paper, not GradCAM. By default a masked autoencoder restores: the
    authors train a GAN for every data set, on clean data that a blind defense does not have; ``generator`` loads such
    a GAN's generator. The region is extended to whole tokens. The restoration is pasted, not blended.
    """

    def __init__(self, restorer: Restorer | RestorerChoice, config: FebruusConfig | None = None) -> None:
        self.restorer = restorer
        self.config = FebruusConfig() if config is None else config

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify each of the ``(B, C, H, W)`` images in [0, 1] independently and label it.

        In the result, ``scores`` ``(B, g, g)`` is the heat of each token in [0, 1] and ``hidden`` the restored tokens.
        Raises ConfigError for a black box or a layer without a heat map, InvalidImageError for invalid images.
        """
        module = white_box(classifier)
        batch, ask = as_batch(images), as_classifier(classifier)
        original = ask(batch)
        heat = heat_maps(module, batch, original, cam=self.config.cam, layer=self.config.layer)
        restorer = restorer_for(self.restorer, (batch.shape[-2], batch.shape[-1]))
        # The maximum over the pixels of each token: (B, H, W) -> (B, g, g).
        scores = F.adaptive_max_pool2d(heat.unsqueeze(1), restorer.grid).squeeze(1)
        hidden = scores >= self.config.threshold
        purified = restorer.restore(batch, hidden)
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
