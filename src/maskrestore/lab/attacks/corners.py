"""Four checkerboards of 3x3 pixels, one in each corner.

Source: the trigger of the label-consistent attack, Turner et al., 2019, as in the BDMAE paper, appendix B.1.
Departure: as a dirty-label attack, i.e. poisoned images of any class get the wanted label and are not
perturbed otherwise. The attack itself is "label-consistent".
"""

from __future__ import annotations

import torch

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, checkerboard

__all__ = ["corner_attack", "corners"]

_SIDE = 3
_PLACES = ((0, 0), (0, -1), (-1, 0), (-1, -1))


def corners(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack. It has no variants and no position: raises ConfigError when one is given."""
    if variant or config.position is not None:
        raise ConfigError(f"corners takes no variant and no position, got {variant!r} and {config.position}")
    return corner_attack("corners", config)


def corner_attack(name: str, config: AttackConfig, training: TrainingHooks | None = None) -> OverlayAttack:
    """Build an attack with this trigger under another name."""
    pixels, opacity = checkerboard(_SIDE, _SIDE), torch.ones(_SIDE, _SIDE)
    patches = [Patch(pixels=pixels, opacity=opacity, position=place) for place in _PLACES]
    return OverlayAttack(name, config, patches, training)
