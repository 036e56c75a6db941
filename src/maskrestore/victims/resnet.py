"""ResNet-18 for small images.

Source: He et al., Deep Residual Learning for Image Recognition, 2016. Departure: the stem that is usual for 32x32
images (one 3x3 convolution with stride 1 and no max-pooling), and a ``width`` for all stages.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["ResNet18"]


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _convolution(inputs, outputs, 1, stride),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Classifier of normalised images ``(B, 3, H, W)``; answers logits ``(B, num_classes)``.

    ``width`` is the number of channels of the first stage: 64 is the full ResNet-18 (11.2 M parameters), 32 the half-width
    one (2.8 M). Any ``H`` and ``W`` of 8 or more will do; it is meant for 32.
    """

    def __init__(self, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        if num_classes < 2 or width < 1:
            raise ConfigError(f"need num_classes >= 2 and width >= 1, got {num_classes} and {width}")
        self.conv1 = _convolution(3, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.head(features.mean((2, 3)))  # (B, 8*width, h, w) -> (B, 8*width)
        return logits
