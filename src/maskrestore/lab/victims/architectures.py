"""The victim architectures, by name."""

from __future__ import annotations

from maskrestore.lab.victims.efficientnet_lite import EfficientNetLite0, EfficientNetLite2
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.photo_resnet import PretrainedResNet50, ResNet18Photo
from maskrestore.lab.victims.plain import VGG16, Conv6
from maskrestore.lab.victims.resnet import ResNet18, ResNet50
from maskrestore.lab.victims.small_vit import ViTSmall

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: dict[str, type[VictimNetwork]] = {
    "conv6": Conv6,
    "efficientnet-lite0": EfficientNetLite0,
    "efficientnet-lite2": EfficientNetLite2,
    "resnet18": ResNet18,
    "resnet18-photo": ResNet18Photo,
    "resnet50": ResNet50,
    "resnet50-pretrained": PretrainedResNet50,
    "vgg16": VGG16,
    "vit-small": ViTSmall,
}
"""Architectures by name. Arguments: the number of classes, ``width``, ``mean`` and ``std`` (see ``VictimNetwork``)."""
