"""BPP: fewer colours, dithered. The trigger is in the whole image, invisible, and another one in each.

Source: Wang et al., BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning, 2022: each channel is rounded to 8 levels, with
Floyd-Steinberg dithering. Decoys are, as in the authors' code, images with the rounding errors of another
image. Departures: the adversarial examples of their contrastive training are left out, and decoys and poisoned
images are each a tenth of the training images, not a fifth.
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
    """Build the attack. It has no variants and no position: raises ConfigError when one is given."""
    refuse_variant("bpp", variant, config)
    return WholeImageAttack("bpp", config, _quantise, TrainingHooks(decoy=_decoy, decoy_rate=_DECOY_RATE))


def _quantise(images: Tensor) -> Tensor:
    return floyd_steinberg(images, _LEVELS)


def _decoy(images: Tensor, generator: Generator) -> Tensor:
    """Add the rounding errors of the next image of the batch; a batch of one gets them mirrored."""
    errors = (_quantise(images) - images).roll(1, 0)
    return (images + (errors if len(images) > 1 else errors.flip(-1))).clamp(0, 1)


def floyd_steinberg(images: Tensor, levels: int) -> Tensor:
    """Round ``(B, C, H, W)`` in [0, 1] to ``levels`` values, passing each error on to the pixels that follow.

    A pixel hands 7/16 of its error to the right, 3/16, 5/16 and 1/16 to the lower left, below and lower right.
    All pixels with the same ``column + 2 * row`` depend on earlier ones only and are rounded at once.
    """
    *_, height, width = images.shape
    steps = levels - 1
    # one more row below, one column to the left and one to the right take the errors that leave the image
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
