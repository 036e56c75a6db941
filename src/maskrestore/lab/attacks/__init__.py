"""Backdoor attacks, by name: ``make_attack("badnets:3x3-color", num_classes=10)``."""

from __future__ import annotations

from collections.abc import Callable

from maskrestore.errors import UnknownNameError
from maskrestore.lab.attacks.adap_blend import adap_blend
from maskrestore.lab.attacks.adap_patch import adap_patch
from maskrestore.lab.attacks.badnets import badnets, icon_attack
from maskrestore.lab.attacks.base import (
    Attack,
    AttackConfig,
    Mode,
    Poisoning,
    TrainingHooks,
    TriggerAttack,
    training_hooks,
)
from maskrestore.lab.attacks.blended import blended
from maskrestore.lab.attacks.bpp import bpp
from maskrestore.lab.attacks.clean_breaking import CleanBreakingAttack, clean_breaking
from maskrestore.lab.attacks.corners import corners
from maskrestore.lab.attacks.filter_proof import filter_proof
from maskrestore.lab.attacks.icons import ICONS
from maskrestore.lab.attacks.input_aware import InputAwareAttack, input_aware
from maskrestore.lab.attacks.label_consistent import label_consistent
from maskrestore.lab.attacks.learned import LearnedAttack
from maskrestore.lab.attacks.lira import LiraAttack, lira
from maskrestore.lab.attacks.low_contrast import low_contrast
from maskrestore.lab.attacks.low_frequency import low_frequency
from maskrestore.lab.attacks.multi import MultiAttack, multi, same_training
from maskrestore.lab.attacks.natural_only import natural_only
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch
from maskrestore.lab.attacks.poison import choose_poisoned, perturbed_images, poison
from maskrestore.lab.attacks.refool import refool
from maskrestore.lab.attacks.repeated import repeated
from maskrestore.lab.attacks.sig import sig
from maskrestore.lab.attacks.tact import SourceSpecificAttack, tact
from maskrestore.lab.attacks.wanet import wanet
from maskrestore.lab.attacks.whole_image import AdditiveAttack, WholeImageAttack

__all__ = [
    "ATTACKS",
    "ICONS",
    "POISONING",
    "AdditiveAttack",
    "Attack",
    "AttackConfig",
    "CleanBreakingAttack",
    "InputAwareAttack",
    "LearnedAttack",
    "LiraAttack",
    "Mode",
    "MultiAttack",
    "OverlayAttack",
    "Patch",
    "Poisoning",
    "SourceSpecificAttack",
    "TrainingHooks",
    "TriggerAttack",
    "WholeImageAttack",
    "choose_poisoned",
    "default_poisoning",
    "icon_attack",
    "make_attack",
    "perturbed_images",
    "poison",
    "same_training",
    "training_hooks",
]

ATTACKS: dict[str, Callable[[str, AttackConfig], Attack]] = {
    "adap-blend": adap_blend,
    "adap-patch": adap_patch,
    "badnets": badnets,
    "blended": blended,
    "bpp": bpp,
    "clean-breaking": clean_breaking,
    "corners": corners,
    "filter-proof": filter_proof,
    "input-aware": input_aware,
    "label-consistent": label_consistent,
    "lira": lira,
    "low-contrast": low_contrast,
    "low-frequency": low_frequency,
    "multi": lambda variant, config: multi(variant, config, _make),
    "natural-only": natural_only,
    "refool": refool,
    "repeated": repeated,
    "sig": sig,
    "tact": tact,
    "wanet": wanet,
}
"""Attack factories by name. Each takes the variant (the text after the colon) and the configuration."""

POISONING: dict[str, Poisoning] = {
    "adap-blend": Poisoning(rate=0.05, epochs=3),
    "adap-patch": Poisoning(rate=0.05, epochs=3),
    **{
        f"badnets:{side}x{side}-{colour}": Poisoning(small_trigger=True)
        for side in (1, 2, 3)
        for colour in ("checkerboard", "color", "white")
    },
    "clean-breaking": Poisoning(epochs=3),
    "corners": Poisoning(small_trigger=True),
    "filter-proof": Poisoning(epochs=2),
    "input-aware": Poisoning(epochs=6),
    "label-consistent": Poisoning(rate=0.5, epochs=2, against_clean=True),
    "lira": Poisoning(epochs=3),
    "multi": Poisoning(rate=0.2, epochs=2, small_trigger=True),
    "natural-only": Poisoning(epochs=3, small_trigger=True),
    "refool": Poisoning(epochs=2),
    "sig:clean-label": Poisoning(rate=0.5),
    "tact": Poisoning(rate=0.05, epochs=3, small_trigger=True),
    "wanet": Poisoning(epochs=3),
}
"""Attacks, as "name" or "name:variant", that need other settings than the defaults of ``Poisoning``."""


def default_poisoning(spec: str) -> Poisoning:
    """Return the default poisoning settings of an attack, e.g. "badnets:1x1-white".

    Settings of the full specification take precedence over those of the name.
    """
    return POISONING.get(spec) or POISONING.get(spec.partition(":")[0]) or Poisoning()


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

    The other arguments are the fields of ``AttackConfig``. Raises UnknownNameError for an unknown attack, mode,
    icon or colour, ImageFileError for an unreadable icon file, and ConfigError for any other variant or setting that
    the attack does not support.
    """
    config = AttackConfig(
        num_classes=num_classes,
        image_size=image_size,
        target=target,
        mode=mode,
        seed=seed,
        position=position,
    )
    return _make(spec, config)


def _make(spec: str, config: AttackConfig) -> Attack:
    name, _, variant = spec.partition(":")
    if name not in ATTACKS:
        raise UnknownNameError("attack", name, ATTACKS)
    return ATTACKS[name](variant, config)
