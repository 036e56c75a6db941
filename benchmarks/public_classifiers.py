"""What the default and `fast` cost clean classifiers that were trained elsewhere.

    git clone https://github.com/akamaster/pytorch_resnet_cifar10
    python -m benchmarks.public_classifiers --weights pytorch_resnet_cifar10/pretrained_models --out public.jsonl

The classifiers are the residual networks for CIFAR-10 of He et al., *Deep Residual Learning for Image Recognition*,
2016, section 4.2, trained by Yerlan Idelbayev. No rule of this project was chosen on them. Needs MASKRESTORE_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.other_victims import measured
from torch import Tensor, nn

from maskrestore import ModuleClassifier
from maskrestore.errors import CheckpointError
from maskrestore.lab.data import load_dataset

SOURCE = "github:akamaster/pytorch_resnet_cifar10"
DEPTHS = (20, 32, 44, 56)
"""Numbers of layers."""
DEFENSES = ("bdmae", "bdmae-fast")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""With which the classifiers were trained: those of ImageNet."""


class Block(nn.Module):
    """Two convolutions beside a shortcut, which has no weights: where channels are more, the new ones are zero."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if channels_in == channels else 2
        self.added = (channels - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels_in, H, W)`` -> ``(B, channels, h, w)``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + shortcut)


class CifarResNet(nn.Module):
    """Maps images ``(B, 3, 32, 32)`` in [0, 1] to logits ``(B, 10)``. depth: 6 n + 2 layers, for n blocks a stage."""

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        for stage, (channels_in, channels) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            rest = (Block(channels, channels) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(Block(channels_in, channels), *rest))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def load(folder: Path, depth: int) -> CifarResNet:
    """Load the weights ``resnetDEPTH-*.th`` of a folder. Raises CheckpointError unless there is one such file."""
    found = sorted(folder.glob(f"resnet{depth}-*.th"))
    if len(found) != 1:
        raise CheckpointError(f"expected one file resnet{depth}-*.th in {folder}, found {len(found)}")
    weights = torch.load(found[0], map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with resnet20-*.th and so on")
    parser.add_argument("--out", type=Path, required=True, help="file for the records")
    parser.add_argument("--count", type=int, default=2000, help="number of test images")
    parser.add_argument("--depth", type=int, action="append", choices=DEPTHS, help="only this network; may be repeated")
    arguments = parser.parse_args()
    test = load_dataset("cifar10", "test")
    for depth in arguments.depth or DEPTHS:
        network = load(arguments.weights, depth)
        config = {"dataset": "cifar10", "architecture": f"resnet{depth}", "attack": None, "source": SOURCE}
        for name in DEFENSES:
            record = measured(
                test,
                ModuleClassifier(network),
                network,
                config,
                defense=name,
                count=arguments.count,
                out=arguments.out,
                name=f"cifar10_resnet{depth}-public_{name}_{arguments.count}",
            )
            print(f"resnet{depth}, {name}: {record.before.ca} -> {record.after.ca}", flush=True)


if __name__ == "__main__":
    main()
