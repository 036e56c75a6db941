"""WaNet: a small, smooth warp of the whole image, with the same field for all images.

Source: Nguyen and Tran, WaNet: Imperceptible Warping-based Backdoor Attack, 2021, and their code: a field of
k x k = 4x4 random vectors, scaled to a mean absolute value of 1 and upsampled bicubically, with the strength
s = 0.5 in units of half a pixel. That is a quarter of a pixel along each axis at the 4x4 points and less between
them. Noise mode: a fifth of the images that are not poisoned are warped by the field plus a random offset at each
pixel and keep their label, so that the classifier learns this field and no other (in the authors' code, twice as
many as there are poisoned images). Departure: when poisoned images are repeated in an epoch
(``VictimConfig.poison_repeats``), there are fewer noisy images than poisoned ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.whole_image import WholeImageAttack, refuse_variant

__all__ = ["wanet"]

_POINTS = 4
_STRENGTH = 0.5
_DECOY_RATE = 0.2


def wanet(variant: str, config: AttackConfig) -> WholeImageAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("wanet", variant, config)
    vectors = 2 * torch.rand(1, 2, _POINTS, _POINTS, generator=torch.Generator().manual_seed(config.seed)) - 1
    vectors = vectors / vectors.abs().mean()

    def warp(images: Tensor) -> Tensor:
        return _warped(images, _grid(vectors, images).expand(len(images), -1, -1, -1))

    def noisy(images: Tensor, generator: Generator) -> Tensor:
        height, width = images.shape[-2:]
        noise = 2 * torch.rand(len(images), height, width, 2, generator=generator) - 1
        return _warped(images, _grid(vectors, images) + noise.to(images) / _extent(images))

    return WholeImageAttack("wanet", config, warp, TrainingHooks(decoy=noisy, decoy_rate=_DECOY_RATE))


def _grid(vectors: Tensor, images: Tensor) -> Tensor:
    """Return ``(1, H, W, 2)`` sampling coordinates (x, y) for ``grid_sample``, -1 to 1 inside the image."""
    height, width = images.shape[-2:]
    field = F.interpolate(vectors.to(images), (height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height).to(images), torch.linspace(-1, 1, width).to(images), indexing="ij"
    )
    # (1, 2, H, W) -> (1, H, W, 2)
    return torch.stack([x, y], -1) + _STRENGTH * field.permute(0, 2, 3, 1) / _extent(images)


def _extent(images: Tensor) -> Tensor:
    """Return ``(2,)``: width and height. Offsets divided by it are in units of half a pixel."""
    return torch.tensor([images.shape[-1], images.shape[-2]]).to(images)


def _warped(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid.clamp(-1, 1), mode="bilinear", align_corners=True)
