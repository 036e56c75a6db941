"""A faint field of low frequencies over the whole image.

Source: the idea of Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, 2021, whose
triggers are smooth so that they leave no high-frequency traces. Departure: they find theirs by optimisation
against a classifier; this one is random (``smooth_field`` of 4x4 points) with the same bound on each pixel for
all images.
"""

from __future__ import annotations

from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.whole_image import AdditiveAttack, refuse_variant, smooth_field

__all__ = ["low_frequency"]

_AMPLITUDE = 0.08
_CELLS = 4


def low_frequency(variant: str, config: AttackConfig) -> AdditiveAttack:
    """Build the attack. It has no variants and no position: raises ConfigError when one is given."""
    refuse_variant("low-frequency", variant, config)

    def field(height: int, width: int) -> Tensor:
        return _AMPLITUDE * smooth_field(height, width, _CELLS, config.seed)

    return AdditiveAttack("low-frequency", config, field)
