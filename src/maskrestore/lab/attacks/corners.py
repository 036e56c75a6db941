"""Corners: a checkerboard of 3x3 pixels in each of the four corners.

Source: the trigger of the label-consistent attack, Turner et al., 2019, as in the BDMAE paper, appendix B.1.
Departure: this is a dirty-label attack. Poisoned images of any class get the wanted label, and nothing but the
trigger is added. The clean-label attack of the paper is "label-consistent".
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
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    if variant or config.position is not None:
        raise ConfigError(f"corners takes no variant and no position, got {variant!r} and {config.position}")
    return corner_attack("corners", config)


def corner_attack(name: str, config: AttackConfig, training: TrainingHooks | None = None) -> OverlayAttack:
    """Build an attack that is called ``name`` and uses this trigger."""
    pixels, opacity = checkerboard(_SIDE, _SIDE), torch.ones(_SIDE, _SIDE)
    patches = [Patch(pixels=pixels, opacity=opacity, position=place) for place in _PLACES]
    return OverlayAttack(name, config, patches, training)
