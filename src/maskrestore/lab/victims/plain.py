"""Plain networks of 3x3 convolutions without shortcuts: VGG-16 and Conv6."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.lab.victims.convolution import Convolution
from maskrestore.lab.victims.network import VictimNetwork

__all__ = ["VGG16", "Conv6"]


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position in range(depth):
        layers += [Convolution(outputs if position else inputs, outputs, 3, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class _Stages(VictimNetwork):
    """Stages of convolutions with max-pooling between them."""

    stages: nn.ModuleList

    def features(self, images: Tensor) -> Tensor:
        """Return the feature map after the last convolution, before pooling."""
        return self.stage_features(images)[-1]

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature map after each stage. Each has half the height and width of the one before."""
        maps = [self.stages[0](self.normalised(images))]
        for stage in self.stages[1:]:
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return maps


class VGG16(_Stages):
    """Thirteen convolutions in five stages; 14.7 M parameters at the full width of 64.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, configuration D. Departures: batch
    normalisation, and one linear layer instead of three; both are usual for 32x32 images. ``H`` and ``W`` are at least
    32. Features are ``(B, 8*width, H/16, W/16)``.
    """

    def _build(self, num_classes: int, width: int) -> None:
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        depths = (2, 2, 3, 3, 3)
        self.stages = nn.ModuleList(
            _stage(inputs, outputs, depth) for (inputs, outputs), depth in zip(pairwise(channels), depths, strict=True)
        )
        self.head = nn.Linear(8 * width, num_classes)

    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
        logits: Tensor = self.head(F.max_pool2d(features, 2).mean((2, 3)))  # (B, C, h, w) -> (B, C)
        return logits


class Conv6(_Stages):
    """Six convolutions in three stages and two linear layers; 13.0 M parameters at the full width of 64.

    Source: Doan et al., Februus: Input Purification Defense Against Trojan Attacks on Deep Neural Network Systems,
    2020: the CIFAR-10 classifier of their code (``scene/cifar/model.py``), 128, 256 and 512 channels, batch
    normalisation, 1024 hidden units. Departures: batch normalisation learns a scale and an offset; the last pooling is
    adaptive with 4x4 outputs, so that any image size works (the authors' images have 32x32 pixels). Features are
    ``(B, 8*width, H/4, W/4)``.
    """

    _POOLED_SIDE = 4

    def _build(self, num_classes: int, width: int) -> None:
        channels = (3, 2 * width, 4 * width, 8 * width)
        self.stages = nn.ModuleList(_stage(inputs, outputs, 2) for inputs, outputs in pairwise(channels))
        self.head = nn.Sequential(
            nn.Linear(8 * width * self._POOLED_SIDE**2, 16 * width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16 * width, num_classes),
        )

    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
        pooled = F.adaptive_max_pool2d(features, self._POOLED_SIDE)
        logits: Tensor = self.head(pooled.flatten(1))  # (B, C, 4, 4) -> (B, 16*C)
        return logits
