"""Denoisers that need no weights, or a handful of random ones."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maskrestore.lab.baselines.diffusion import kept
from maskrestore.lab.baselines.diffusion_training import DiffusionTrainingConfig, build_unet

TINY = DiffusionTrainingConfig(
    image_size=16, channels=(8, 16), layers_per_block=1, attention_at=(), norm_groups=4, batch_size=8, steps=2
)


@dataclass(frozen=True, kw_only=True)
class PointDenoiser:
    """The exact network when all data is one image, ``(3, S, S)`` in [-1, 1]."""

    data: Tensor

    @property
    def image_size(self) -> int:
        return self.data.shape[-1]

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        share = kept(step + 1)
        return (noisy - math.sqrt(share) * self.data) / math.sqrt(1 - share)


@dataclass(frozen=True, kw_only=True)
class GaussianDenoiser:
    """The exact network when every pixel of the data is independent, with mean 0 and this standard deviation."""

    deviation: float
    image_size: int = 16

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        share = kept(step + 1)
        return noisy * (math.sqrt(1 - share) / (share * self.deviation**2 + 1 - share))


@dataclass(frozen=True, kw_only=True)
class ZeroDenoiser:
    """Sees no noise in anything."""

    image_size: int = 16

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        return torch.zeros_like(noisy)


def save_tiny_unet(folder: Path) -> Path:
    """A folder with a random network for images of 16 pixels."""
    torch.manual_seed(0)
    build_unet(TINY).save_pretrained(folder)
    return folder
