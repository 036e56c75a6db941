"""Input-Aware: two networks generate a trigger for each image, which works on that image only.

Source: Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, 2020, and their code: a pattern network and a mask
network, both encoder-decoders. The mask network is trained first, so that masks are sparse (values above the
density 0.032 are penalised) and differ between images. Then the pattern network is trained together with the
classifier; images that carry the trigger of another image keep their label. Departures: both networks normalise
with mean 0.5 and standard deviation 0.25 for all data sets, so that their inputs are in [0, 1]; patterns are in
[0, 1], too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig, checked_images
from maskrestore.lab.attacks.learned import LearnedAttack
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["InputAwareAttack", "diversity_loss", "input_aware", "mask_loss"]

DENSITY = 0.032
"""Mask values above this are penalised."""
_DENSITY_WEIGHT = 100.0
_EPSILON = 1e-7


def input_aware(variant: str, config: AttackConfig) -> InputAwareAttack:
    """Build the attack with untrained networks, initialised from ``config.seed``.

    Raises ConfigError when a variant or a position is given: it has neither.
    """
    refuse_variant("input-aware", variant, config)
    return InputAwareAttack("input-aware", config)


class InputAwareAttack(LearnedAttack):
    """Blends ``pattern(image)`` into the image with the opacity ``mask(image)``. Any pixel may change."""

    def __init__(self, name: str, config: AttackConfig) -> None:
        super().__init__(name, config, {"pattern": 3, "mask": 1})

    @torch.no_grad()
    def apply(self, images: Tensor) -> Tensor:
        """Add to each of the ``(B, C, H, W)`` images in [0, 1] its own trigger.

        Grey images get the mean of the trigger's channels. The result for an image does not depend on the rest of
        the batch, up to rounding. Raises InvalidImageError for another rank or number of channels.
        """
        return self.cross(images, images)

    @torch.no_grad()
    def cross(self, images: Tensor, others: Tensor) -> Tensor:
        """Add to each image the trigger of the image at the same index of ``others``: a decoy.

        Both are ``(B, C, H, W)`` in [0, 1]. Raises InvalidImageError for another rank or number of channels.
        """
        return self.blend(checked_images(images), *self.trigger(checked_images(others))).clamp(0, 1)

    def trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return patterns ``(B, C, H, W)`` and masks ``(B, 1, H, W)``, both in [0, 1] and differentiable."""
        colour = images.expand(-1, 3, -1, -1)  # (B, 1, H, W) -> (B, 3, H, W) for grey images
        patterns = self.networks["pattern"](colour)
        return patterns if images.shape[1] == 3 else patterns.mean(1, keepdim=True), self.mask(colour)

    def mask(self, images: Tensor) -> Tensor:
        """Return masks ``(B, 1, H, W)`` in [0, 1] for colour images ``(B, 3, H, W)``, most values near 0 or 1."""
        soft: Tensor = self.networks["mask"](images)
        return torch.tanh(20 * soft - 10) / (2 + _EPSILON) + 0.5

    @staticmethod
    def blend(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
        """Interpolate from the images (masks 0) to the patterns (masks 1)."""
        return images + (patterns - images) * masks


def diversity_loss(images: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean ratio of the distance between two images to the distance between the networks' outputs.

    ``images`` and ``drawn`` are pairs of batches ``(B, ...)``. The loss is low when outputs differ between images.
    """
    return (_distance(*images) / (_distance(*drawn) + _EPSILON)).mean()


def mask_loss(images: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of the mask network: the weighted excess over ``DENSITY`` plus the diversity loss."""
    return _DENSITY_WEIGHT * F.relu(masks[0] - DENSITY).mean() + diversity_loss(images, masks)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Return ``(B,)``: the root mean squared difference of each pair."""
    # the small constant keeps the gradient of the square root finite where both are equal
    return ((one - other).square().flatten(1).mean(1) + 1e-12).sqrt()
