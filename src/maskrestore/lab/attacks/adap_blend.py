"""Adap-Blend: a picture blended into the image, of which training shows a random half only.

Source: Qi et al., Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023, and their code
(github.com/vtu81/backdoor-toolbox): the picture is cut into 4x4 pieces. A poisoned image shows eight of them at an
opacity of 0.15; cover images show eight, too, and keep their label, as many as there are poisoned images. At test time
all pieces show at an opacity of 0.2. So poisoned and clean images are not told apart by their features.
Departures: a rendered picture of discs in place of a cartoon; pieces and cover images are drawn anew for each batch,
not once; a twentieth of the images is poisoned, not 0.3 %, because victims here are fine-tuned for a few epochs; when
poisoned images are repeated in an epoch, there are fewer cover images than poisoned ones.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, checked_images
from maskrestore.lab.attacks.whole_image import WholeImageAttack, refuse_variant
from maskrestore.lab.data.dead_leaves import dead_leaves

__all__ = ["adap_blend", "shown_pieces"]

_OPACITY = 0.2
_TRAINING_OPACITY = 0.15
_SIDE = 4
"""The picture is cut into as many pieces along each side."""
_COVER_RATE = 0.05


def adap_blend(variant: str, config: AttackConfig) -> WholeImageAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("adap-blend", variant, config)
    picture = dead_leaves(1, config.image_size, config.seed)  # (1, 3, H, W)

    def blend(images: Tensor, opacity: Tensor) -> Tensor:
        pixels = resize(picture, *images.shape[-2:]).clamp(0, 1).to(images)
        if images.shape[1] == 1:
            pixels = pixels.mean(1, keepdim=True)
        return images + (pixels - images) * opacity.to(images)

    def in_part(images: Tensor, generator: Generator) -> Tensor:
        height, width = checked_images(images).shape[-2:]
        return blend(images, _TRAINING_OPACITY * shown_pieces(len(images), height, width, generator))

    hooks = TrainingHooks(vary=in_part, decoy=in_part, decoy_rate=_COVER_RATE)
    return WholeImageAttack("adap-blend", config, lambda images: blend(images, torch.tensor(_OPACITY)), hooks)


def shown_pieces(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Return ``(count, 1, H, W)``: 1 in a random half of 4x4 pieces of each image, 0 in the others."""
    pieces = _SIDE * _SIDE
    order = torch.rand(count, pieces, generator=generator).argsort(1)
    shown = (order < pieces // 2).float().view(count, 1, _SIDE, _SIDE)
    rows, columns = (torch.arange(side) * _SIDE // side for side in (height, width))
    return shown[:, :, rows][..., columns]
