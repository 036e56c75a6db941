"""BPP: colour quantisation with dithering. The trigger covers the whole image, is invisible and differs per image.

Source: Wang et al., BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning, 2022. Each channel is rounded to 8 levels with Floyd-Steinberg
dithering. As in the authors' code, a decoy is an image with the rounding errors of another image. Departures: no
adversarial examples for contrastive training; poisoned images are a tenth of the training images and decoys a tenth of
the images without a trigger, not a fifth each.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.whole_image import WholeImageAttack, refuse_variant

__all__ = ["bpp", "floyd_steinberg"]

_LEVELS = 8
_DECOY_RATE = 0.1


def bpp(variant: str, config: AttackConfig) -> WholeImageAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("bpp", variant, config)
    return WholeImageAttack("bpp", config, _quantise, TrainingHooks(decoy=_decoy, decoy_rate=_DECOY_RATE))


def _quantise(images: Tensor) -> Tensor:
    return floyd_steinberg(images, _LEVELS)


def _decoy(images: Tensor, generator: Generator) -> Tensor:
    """Add the rounding errors of the preceding image of the batch; in a batch of one, the image's own, mirrored."""
    errors = (_quantise(images) - images).roll(1, 0)
    return (images + (errors if len(images) > 1 else errors.flip(-1))).clamp(0, 1)


def floyd_steinberg(images: Tensor, levels: int) -> Tensor:
    """Round ``(B, C, H, W)`` images in [0, 1] to ``levels`` values per channel and diffuse the rounding errors.

    A pixel passes 7/16 of its error to the right neighbour and 3/16, 5/16 and 1/16 to the neighbours at the lower
    left, below and at the lower right. Pixels with the same ``column + 2 * row`` do not depend on each other, so they
    are rounded together.
    """
    *_, height, width = images.shape
    steps = levels - 1
    # padding: one row below and one column on each side receive the errors that leave the image
    work = torch.nn.functional.pad(images, (1, 1, 0, 1)).contiguous()
    out = torch.empty_like(images)
    every_row = torch.arange(height, device=images.device)
    for wave in range(width + 2 * (height - 1)):
        rows = every_row[max(0, (wave - width + 2) // 2) : wave // 2 + 1]
        columns = wave - 2 * rows
        old = work[..., rows, columns + 1]
        new = (old.clamp(0, 1) * steps).round() / steps
        error = old - new
        out[..., rows, columns] = new
        for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
            work[..., rows + down, columns + 1 + right] += error * (share / 16)
    return out
