"""ResNets for photographs: a ResNet-50 that starts from pretrained weights, and small ones from scratch.

Source: He et al., Deep Residual Learning for Image Recognition, 2016, with the stem for large images and, as everywhere
today, the stride in the 3x3 convolution of a bottleneck. ResNet-50 takes the weights of the ``transformers`` library
(the BDMAE paper, appendix B.1, uses a pretrained ResNet-50) or of a checkpoint in torchvision's format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from maskrestore.errors import CheckpointError, MissingDependencyError
from maskrestore.lab.victims.convolution import Convolution
from maskrestore.lab.victims.pretrained import Mean, PretrainedNetwork, read_state_dict
from maskrestore.lab.victims.resnet import Bottleneck, ResNet18, residual_stages

__all__ = ["PretrainedResNet50", "ResNet18Photo"]

_HUB_NAME = "microsoft/resnet-50"

_DEPTHS = (3, 4, 6, 3)


def _stem(width: int) -> nn.Sequential:
    """Reduce the picture to a quarter of its side."""
    return nn.Sequential(
        Convolution(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )


class ResNet18Photo(ResNet18):
    """ResNet-18 with the stem for large images, for 112 to 204 pixels. Features are ``(B, 8*width, H/32, W/32)``."""

    def _build(self, num_classes: int, width: int) -> None:
        super()._build(num_classes, width)
        self.conv1 = _stem(width)
        self.bn1 = nn.Identity()


class PretrainedResNet50(PretrainedNetwork):
    """16 bottleneck blocks, 23.5 M parameters. Features are ``(B, 2048, H/32, W/32)``."""

    INPUT_MEAN = (0.485, 0.456, 0.406)
    INPUT_STD = (0.229, 0.224, 0.225)
    FIRST_BLOCKS = 7  # two of the four stages, down to 1/8

    def _build(self, num_classes: int, width: int) -> None:
        stages, outputs = residual_stages(Bottleneck, _DEPTHS, 64)
        self.backbone = nn.ModuleList([_stem(64), *(block for stage in stages for block in stage)])
        self.head = nn.Sequential(Mean(), nn.Linear(outputs, num_classes))

    def load_backbone(self, source: str | None) -> None:
        """Load weights from a checkpoint file of torchvision, or with ``transformers`` from a folder or the hub.

        Raises CheckpointError and MissingDependencyError as the base class says.
        """
        name = source or _HUB_NAME
        path = Path(name).expanduser()
        state = from_torchvision(read_state_dict(path)) if path.is_file() else from_transformers(_hub_state(name))
        try:
            self.backbone.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"{name} has not the weights of a ResNet-50: {error}") from error


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of torchvision's ``resnet50`` under the names of ``PretrainedResNet50.backbone``."""
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.(?:(downsample)\.)?(.*)", name):
            stage, block, shortcut, rest = match.groups()
            named[f"{_place(int(stage) - 1, int(block))}.{'shortcut.' if shortcut else ''}{rest}"] = value
        elif match := re.fullmatch(r"(conv1|bn1)\.(.*)", name):
            named[f"0.{('conv1', 'bn1').index(match[1])}.{match[2]}"] = value
    return named


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of transformers' ``ResNetModel`` under the names of ``PretrainedResNet50.backbone``."""
    parts = {"convolution": 0, "normalization": 1}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"embedder\.embedder\.(\w+)\.(\w+)", name):
            named[f"0.{parts[match[1]]}.{match[2]}"] = value
        elif match := re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(\w+)\.(\w+)", name):
            named[f"{_place(int(match[1]), int(match[2]))}.shortcut.{parts[match[3]]}.{match[4]}"] = value
        elif match := re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(\w+)\.(\w+)", name):
            kind = ("conv", "bn")[parts[match[4]]]
            named[f"{_place(int(match[1]), int(match[2]))}.{kind}{int(match[3]) + 1}.{match[5]}"] = value
    return named


def _place(stage: int, block: int) -> int:
    """The index of a block in the backbone, whose first module is the stem."""
    return 1 + sum(_DEPTHS[:stage]) + block


def _hub_state(name: str) -> Mapping[str, Tensor]:
    try:
        from transformers import ResNetModel  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("transformers", "lab") from error
    try:
        state: Mapping[str, Tensor] = ResNetModel.from_pretrained(name).state_dict()
    except Exception as error:  # the library's network, cache and format errors have no common base class
        raise CheckpointError(
            f"{name} could not be loaded as a ResNet with transformers: {error}. Without a connection, "
            "set backbone to a folder or to a checkpoint file of torchvision"
        ) from error
    return state
