"""Attacks whose trigger covers the whole image: a transformation of the image, or a field added to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, TriggerAttack, checked_images

__all__ = ["AdditiveAttack", "WholeImageAttack", "refuse_variant", "smooth_field"]


class WholeImageAttack(TriggerAttack):
    """Transforms the whole image."""

    def __init__(
        self,
        name: str,
        config: AttackConfig,
        transform: Callable[[Tensor], Tensor],
        training: TrainingHooks | None = None,
    ) -> None:
        """``transform`` maps ``(B, C, H, W)`` in [0, 1] to the same shape and treats each image independently."""
        super().__init__(name, config, training)
        self._transform = transform

    def apply(self, images: Tensor) -> Tensor:
        """Transform ``(B, C, H, W)`` images in [0, 1]. Raises InvalidImageError for other ranks or channels."""
        return self._transform(checked_images(images)).clamp(0, 1)


class AdditiveAttack(TriggerAttack):
    """Adds the same field to every image and clips to [0, 1]."""

    def __init__(
        self,
        name: str,
        config: AttackConfig,
        field: Callable[[int, int], Tensor],
        training: TrainingHooks | None = None,
    ) -> None:
        """``field(height, width)`` returns the ``(3, H, W)`` field in [-1, 1] for images of that size.

        Raises what ``field`` raises for ``config.image_size``.
        """
        super().__init__(name, config, training)
        self._field = field
        field(config.image_size, config.image_size)  # fail early when the trigger does not fit the image

    def apply(self, images: Tensor) -> Tensor:
        """Add the field to ``(B, C, H, W)`` images in [0, 1]. Grey images get its mean over the channels.

        Raises InvalidImageError for another rank or number of channels.
        """
        field = self._field(*checked_images(images).shape[-2:]).to(images)
        if images.shape[1] == 1:
            field = field.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
        return (images + field).clamp(0, 1)

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True where the field is not 0, up to rounding."""
        return (self._field(height, width).abs() > 1e-6).any(0)


def smooth_field(height: int, width: int, cells: int, seed: int) -> Tensor:
    """Return ``(3, height, width)``: a smooth random field whose largest absolute value is 1.

    Random values at an even grid of ``cells x cells`` points, interpolated bicubically.
    """
    points = 2 * torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(seed)) - 1
    field = F.interpolate(points, (height, width), mode="bicubic", align_corners=True)[0]
    return field / field.abs().max()


def refuse_variant(name: str, variant: str, config: AttackConfig) -> None:
    """Raises ConfigError when a variant or a position is given to an attack that has neither."""
    if variant or config.position is not None:
        raise ConfigError(f"{name} takes no variant and no position, got {variant!r} and {config.position}")
