"""Refool: a reflection, as if the picture were taken through a window.

Source: Liu et al., Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks, ECCV 2020, and the code of
Li et al. (github.com/THUYimingLi/BackdoorBox): a reflected picture, either out of focus or doubled (a ghost), is added
in linear light (gamma 2.2) with a weight of 0.05 to 0.45; the second image of a ghost lies 3 to 8 pixels aside and has
a weight of 0.15 to 0.5. Each image gets the reflection of one of several pictures.
Departures: the reflected pictures are rendered discs, 32 of them, because there is no collection of pictures here; the
weight of the image is one minus that of the reflection for both kinds, without the code's mask that fades a blurred
reflection out; offsets and blur are chosen in pixels of an image of 32 (1 to 3, and 0.5 to 2), as the published ones
vanish at this size; the attacker does not select the most effective pictures; poisoned images come from all classes
and get the target's label, as in that code. The original poisons images of the target class only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.whole_image import WholeImageAttack, refuse_variant
from maskrestore.lab.data.dead_leaves import dead_leaves

__all__ = ["refool"]

_PICTURES = 32
_GHOSTS = _PICTURES // 2
_GAMMA = 2.2
_WEIGHTS = (0.05, 0.45)
_GHOST_WEIGHTS = (0.15, 0.5)
_OFFSETS = (1, 3)
_BLURS = (0.5, 2.0)


def refool(variant: str, config: AttackConfig) -> WholeImageAttack:
    """Build the attack. ``config.seed`` determines the reflections.

    The content of an image decides which one it gets. Raises ConfigError when a variant or a position is given: it has
    neither.
    """
    refuse_variant("refool", variant, config)
    layers, weights = _reflections(config.image_size, config.seed)

    def reflect(images: Tensor) -> Tensor:
        chosen = _by_content(images).cpu()
        layer = resize(layers[chosen], *images.shape[-2:]).clamp(0, 1).to(images)
        if images.shape[1] == 1:
            layer = layer.mean(1, keepdim=True)  # (B, 3, H, W) -> (B, 1, H, W)
        weight = weights[chosen].view(-1, 1, 1, 1).to(images)
        return ((1 - weight) * images**_GAMMA + weight * layer).clamp(0, 1) ** (1 / _GAMMA)

    return WholeImageAttack("refool", config, reflect)


def _by_content(images: Tensor) -> Tensor:
    """Return ``(B,)`` int64 from 0 to 31 by the sum of all bytes of each image."""
    return (images * 255).round().long().sum((1, 2, 3)) % _PICTURES


def _reflections(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return reflected pictures ``(32, 3, size, size)`` in linear light, first ghosts, then blurred ones; and weights.

    The weights ``(32,)`` are those of the reflection in the sum.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(bounds: tuple[float, float], count: int) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=generator)

    pictures = dead_leaves(_PICTURES, size, seed) ** _GAMMA
    scale = size / 32
    down, right = (torch.randint(_OFFSETS[0], _OFFSETS[1] + 1, (_GHOSTS,), generator=generator) for _ in range(2))
    second = between(_GHOST_WEIGHTS, _GHOSTS)
    ghosts = [
        _ghost(picture, round(dy * scale), round(dx * scale), weight)
        for picture, dy, dx, weight in zip(
            pictures[:_GHOSTS], down.tolist(), right.tolist(), second.tolist(), strict=True
        )
    ]
    blurs = between(_BLURS, _PICTURES - _GHOSTS).tolist()
    blurred = [_blurred(picture, sigma * scale) for picture, sigma in zip(pictures[_GHOSTS:], blurs, strict=True)]
    return torch.stack([*ghosts, *blurred]), between(_WEIGHTS, _PICTURES)


def _ghost(picture: Tensor, down: int, right: int, weight: float) -> Tensor:
    """Add the picture ``(3, H, W)`` to itself, shifted and with this weight. What leaves the image comes back."""
    return (1 - weight) * picture + weight * picture.roll((down, right), (1, 2))


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur ``(3, H, W)`` with a Gaussian of this standard deviation in pixels; the border is repeated."""
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    padded = F.pad(picture[:, None], (radius,) * 4, mode="replicate")  # channels as a batch
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))[:, 0]
