"""LIRA: a network draws faint noise for each image, over the whole image. It learns together with the classifier.

Source: Doan et al., LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021, and their code
(github.com/sunbelbd/invisible_backdoor_attacks): ``x + bound * g(x)`` with a network ``g`` whose last layer is tanh.
It minimises the loss of the classifier for the attacker's label. Departures: the bound is 8 of 255 levels, not 0.01 of
normalised images, of which nothing is left once an image is stored in 8 bits; the network is the encoder-decoder of
Input-Aware, not a U-Net; one stage: network and classifier learn together to the end, each from the same loss, instead
of a network that looks one step of the classifier ahead and a second stage with the network fixed; poisoned images are
a tenth of each batch, not half.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig, checked_images
from maskrestore.lab.attacks.learned import LearnedAttack
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["LiraAttack", "lira"]

_BOUND = 8 / 255


def lira(variant: str, config: AttackConfig) -> LiraAttack:
    """Build the attack with an untrained network, initialised from ``config.seed``.

    Raises ConfigError when a variant or a position is given: it has neither.
    """
    refuse_variant("lira", variant, config)
    return LiraAttack("lira", config)


class LiraAttack(LearnedAttack):
    """Adds bounded noise that the network "noise" draws for each image."""

    def __init__(self, name: str, config: AttackConfig) -> None:
        super().__init__(name, config, {"noise": 3})

    @torch.no_grad()
    def apply(self, images: Tensor) -> Tensor:
        """Add to each of the ``(B, C, H, W)`` images in [0, 1] its noise, at most 8 / 255 per pixel.

        Grey images get the mean of the noise's channels. The result for an image does not depend on the rest of the
        batch, up to rounding. Raises InvalidImageError for another rank or number of channels.
        """
        return self.noisy(checked_images(images))

    def noisy(self, images: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` images in [0, 1] with their noise, differentiable."""
        colour = images.expand(-1, 3, -1, -1)  # (B, 1, H, W) -> (B, 3, H, W) for grey images
        drawn: Tensor = self.networks["noise"](colour)
        noise = _BOUND * (2 * drawn - 1)
        return (images + (noise if images.shape[1] == 3 else noise.mean(1, keepdim=True))).clamp(0, 1)
