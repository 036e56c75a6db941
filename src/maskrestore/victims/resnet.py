"""ResNet-18 for small images.

Source: He et al., Deep Residual Learning for Image Recognition, 2016. Departure: the stem that is usual for
32x32 images (one 3x3 convolution with stride 1 and no max-pooling), and a ``width`` for all stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError
from maskrestore.victims.convolution import Convolution

__all__ = ["ResNet18"]


class _Block(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = Convolution(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Classifier of images ``(B, 3, H, W)`` in [0, 1]; answers logits ``(B, num_classes)``.

    ``width`` is the number of channels of the first stage: 64 is the full ResNet-18 (11.2 M parameters), 32
    the half-width one (2.8 M). The normalisation, ``mean`` and ``std`` per channel, is inside, so that it
    travels with the weights. Any ``H`` and ``W`` of 8 or more will do; it is meant for 32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 64,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if num_classes < 2 or width < 1:
            raise ConfigError(f"need num_classes >= 2 and width >= 1, got {num_classes} and {width}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.conv1 = Convolution(3, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        features = self.stage_features(images)[-1]
        logits: Tensor = self.head(features.mean((2, 3)))  # (B, 8*width, h, w) -> (B, 8*width)
        return logits

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps after each of the four stages: ``(B, k*width, h/k, w/k)``, k = 1, 2, 4, 8."""
        features = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return [features := stage(features) for stage in self.stages]
