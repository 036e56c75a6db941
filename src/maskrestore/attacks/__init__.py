"""Backdoor attacks, by name: ``make_attack("badnets:3x3-color", num_classes=10)``."""

from __future__ import annotations

from collections.abc import Callable

from maskrestore.attacks.badnets import badnets, icon_attack
from maskrestore.attacks.base import Attack, AttackConfig, Mode
from maskrestore.attacks.blended import blended
from maskrestore.attacks.corners import corners
from maskrestore.attacks.overlay import OverlayAttack, Patch
from maskrestore.attacks.poison import choose_poisoned, poison
from maskrestore.errors import UnknownNameError

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackConfig",
    "Mode",
    "OverlayAttack",
    "Patch",
    "choose_poisoned",
    "icon_attack",
    "make_attack",
    "poison",
]

ATTACKS: dict[str, Callable[[str, AttackConfig], Attack]] = {
    "badnets": badnets,
    "blended": blended,
    "corners": corners,
}
"""Every attack by its name: a function of the variant (what follows the colon) and the configuration."""


def make_attack(
    spec: str,
    *,
    num_classes: int,
    image_size: int = 32,
    target: int = 0,
    mode: Mode = "all-to-one",
    seed: int = 0,
    position: tuple[int, int] | None = None,
) -> Attack:
    """Build an attack from its name and variant, e.g. "badnets:1x1-white", "blended:15x15", "corners".

    The other arguments are the fields of ``AttackConfig``. Raises UnknownNameError for an unknown name,
    ConfigError for a variant or a setting that the attack does not have.
    """
    name, _, variant = spec.partition(":")
    if name not in ATTACKS:
        raise UnknownNameError("attack", name, ATTACKS)
    config = AttackConfig(
        num_classes=num_classes,
        image_size=image_size,
        target=target,
        mode=mode,
        seed=seed,
        position=position,
    )
    return ATTACKS[name](variant, config)
