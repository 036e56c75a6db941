"""Base class of networks that start from pretrained weights, and where those come from."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.mae.checkpoints.weight_files import as_tensors, read_pickle
from maskrestore.runtime.digests import digest, digest_of_file

__all__ = ["Mean", "PretrainedNetwork", "backbone_identity", "read_state_dict"]


class PretrainedNetwork(VictimNetwork):
    """A network that is not trained from scratch: ``backbone`` is a chain of blocks, ``head`` follows it.

    It normalises as its pretrained weights expect: its ``mean`` and ``std`` are those of the class. ``width`` is not
    used. The network can be cut in two after any block, so that the first part is computed once for each picture and
    the second one is trained (``activations.py``).
    """

    INPUT_MEAN: ClassVar[tuple[float, float, float]]
    INPUT_STD: ClassVar[tuple[float, float, float]]
    FIRST_BLOCKS: ClassVar[int]
    """Number of blocks that keep their weights by default: down to 1/16 of the picture's side."""

    backbone: nn.ModuleList
    """The stem, the blocks and what follows them before pooling."""
    head: nn.Module
    """Maps the last feature map to the logits."""

    @abstractmethod
    def load_backbone(self, source: str | None) -> None:
        """Load pretrained weights into ``backbone``; ``head`` keeps its initial ones.

        source: as ``VictimConfig.backbone``. Raises CheckpointError when the weights are missing or of another network,
        and MissingDependencyError when the package that has them is not installed.
        """

    def features(self, images: Tensor) -> Tensor:
        """Return the last feature map ``(B, C, H/32, W/32)``."""
        out = self.normalised(images)
        for block in self.backbone:
            out = block(out)
        return out

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Return the last feature map of each scale, from H/4 x W/4 to H/32 x W/32."""
        out, maps = self.normalised(images), list[Tensor]()
        for block in self.backbone:
            before, out = out, block(out)
            # H/4 is rounded up when a side is odd.
            if out.shape[-1] < before.shape[-1] < images.shape[-1] / 3:
                maps.append(before)
        return [*maps, out]

    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
        logits: Tensor = self.head(features)
        return logits

    def cut(self, blocks: int) -> tuple[nn.Module, nn.Module]:
        """Return the network in two parts that share its weights: images -> activations, activations -> logits.

        blocks: number of blocks of the first part, besides the stem.
        """
        return _Early(self, blocks + 1), nn.Sequential(*self.backbone[blocks + 1 :], self.head)


class Mean(nn.Module):
    """Global average pooling: ``(B, C, h, w)`` -> ``(B, C)``."""

    def forward(self, features: Tensor) -> Tensor:
        """Average over positions."""
        return features.mean((2, 3))


class _Early(nn.Module):
    """Normalisation, stem and first blocks."""

    def __init__(self, network: PretrainedNetwork, count: int) -> None:
        super().__init__()
        self._normalised = network.normalised
        self.blocks = nn.Sequential(*network.backbone[:count])

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.blocks(self._normalised(images))
        return out


def backbone_identity(source: str) -> str:
    """Return what identifies pretrained weights: the digest of a file's or a folder's content, or a name on the hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return digest_of_file(path)
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in (".bin", ".json", ".pth", ".safetensors"))
        return digest(one.name.encode() + digest_of_file(one).encode() for one in files)
    return source


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Read a PyTorch checkpoint: a state dictionary, alone or below "state_dict" or "model", as training code saves it.

    A leading "module." of names, which data parallel training adds, is removed. Raises CheckpointError for any other
    file, and for one that would run code, which is not run.
    """
    found = read_pickle(Path(path))
    for key in ("state_dict", "model"):
        if isinstance(found.get(key), dict):
            found = found[key]
    return {name.removeprefix("module."): value for name, value in as_tensors(found, Path(path)).items()}
