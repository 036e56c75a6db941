"""ResNet-18 and ResNet-50 for small images.

Source: He et al., Deep Residual Learning for Image Recognition, 2016. Departures: the usual stem for 32x32 images (one
3x3 convolution with stride 1 and no max-pooling); ``width`` scales all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.lab.victims.convolution import Convolution
from maskrestore.lab.victims.network import VictimNetwork

__all__ = ["Bottleneck", "ResNet18", "ResNet50", "residual_stages"]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(Convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Convolution(channels, channels, 3, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut. The output has four times the channels of the 3x3 convolution."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * channels
        self.conv1 = Convolution(inputs, channels, 1, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Convolution(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = Convolution(channels, outputs, 1, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's ``(B, 4*channels, H/stride, W/stride)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def residual_stages(
    block: type[_Block] | type[Bottleneck], depths: Sequence[int], width: int
) -> tuple[list[nn.Sequential], int]:
    """Return the stages of a ResNet, each with twice the channels of the one before, and the last number of channels.

    All stages but the first halve height and width.
    """
    stages, inputs = [], width
    for number, depth in enumerate(depths):
        blocks = []
        for position in range(depth):
            stride = 2 if number > 0 and position == 0 else 1
            blocks.append(block(inputs, width << number, stride))
            inputs = block.expansion * (width << number)
        stages.append(nn.Sequential(*blocks))
    return stages, inputs


class _ResNet(VictimNetwork):
    """A stem, four stages of blocks, global average pooling and a linear layer.

    ``H`` and ``W`` are at least 8; the network is designed for 32.
    """

    conv1: nn.Module
    bn1: nn.Module
    block: ClassVar[type[_Block] | type[Bottleneck]]
    depths: ClassVar[tuple[int, int, int, int]]

    def _build(self, num_classes: int, width: int) -> None:
        self.conv1 = Convolution(3, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = residual_stages(self.block, self.depths, width)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the map after the last stage: ``(B, 8*width, H/8, W/8)``; in ResNet-50, ``32*width`` channels."""
        return self.stage_features(images)[-1]

    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
        logits: Tensor = self.head(features.mean((2, 3)))  # (B, C, h, w) -> (B, C)
        return logits

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature map after each of the four stages: ``(B, k*width, H/k, W/k)``, k = 1, 2, 4, 8.

        In ResNet-50 they have ``4*k*width`` channels.
        """
        features = F.relu(self.bn1(self.conv1(self.normalised(images))))
        return [features := stage(features) for stage in self.stages]


class ResNet18(_ResNet):
    """Two blocks per stage: 11.2 M parameters at the full width of 64, 2.8 M at 32."""

    block = _Block
    depths = (2, 2, 2, 2)


class ResNet50(_ResNet):
    """Three to six bottleneck blocks per stage: 23.5 M parameters at the full width of 64, 5.9 M at 32."""

    block = Bottleneck
    depths = (3, 4, 6, 3)
