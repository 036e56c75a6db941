"""Low-frequency: a faint, smooth field over the whole image.

Source: the idea of Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, 2021: a smooth
trigger leaves no high-frequency artifacts. Departure: the authors optimise their trigger against a classifier; this
one is random (``smooth_field`` of 4x4 points) and the same for all images, at most 0.08 per pixel.
"""

from __future__ import annotations

from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.whole_image import AdditiveAttack, refuse_variant, smooth_field

__all__ = ["low_frequency"]

_AMPLITUDE = 0.08
_CELLS = 4


def low_frequency(variant: str, config: AttackConfig) -> AdditiveAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("low-frequency", variant, config)

    def field(height: int, width: int) -> Tensor:
        return _AMPLITUDE * smooth_field(height, width, _CELLS, config.seed)

    return AdditiveAttack("low-frequency", config, field)
