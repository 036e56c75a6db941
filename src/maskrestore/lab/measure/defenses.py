"""The defenses that can be measured, by name, and the victim that they are measured on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.profiles import PROFILES
from maskrestore.defense.streams import Key, key_fingerprint
from maskrestore.errors import UnknownNameError
from maskrestore.lab.baselines import BASELINES, BaselineConfig
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings
from maskrestore.lab.measure.records import DefenseEntry, VictimEntry
from maskrestore.runtime.settings import differences
from maskrestore.types import Classifier, Defense, Purification, Restorer

__all__ = [
    "DEFENSES",
    "DefenseConfig",
    "DefenseUnderTest",
    "NoDefense",
    "NoDefenseConfig",
    "VictimUnderTest",
    "default_config",
    "make_defense",
    "settings_in_force",
]


@dataclass(frozen=True, kw_only=True)
class NoDefenseConfig:
    """There is nothing to set."""

    def build(self, key: Key = 0) -> Defense:
        """Build the defense that does nothing; ``key`` is not used."""
        return NoDefense()


class NoDefense:
    """Answer with the classifier's own label: what every defense is compared with."""

    def purify(self, images: Tensor, classifier: Classifier) -> Purification:
        """Return ``(B, C, H, W)`` images as they are, with their labels; one query for each."""
        labels = classifier(images)
        return Purification(
            images=images,
            labels=labels,
            original_labels=labels,
            queries=torch.ones(len(images), dtype=torch.int64),
        )


DefenseConfig = BDMAEConfig | BaselineConfig
"""Settings of a defense; a baseline's build it, BDMAE takes a restorer as well."""

DEFENSES: dict[str, DefenseConfig] = {
    "none": NoDefenseConfig(),
    "bdmae": PROFILES["default"],
    "bdmae-paper": PROFILES["paper"],
    "bdmae-fast": PROFILES["fast"],
    "bdmae-paper-fast": PROFILES["paper-fast"],
    **BASELINES,
}
"""Every defense by name, with the settings that the name stands for; their type says what is built."""


@dataclass(frozen=True, kw_only=True)
class VictimUnderTest:
    """A classifier with what a record says about it."""

    classifier: Classifier
    entry: VictimEntry


@dataclass(frozen=True, kw_only=True)
class DefenseUnderTest:
    """A defense with what a record says about it."""

    defense: Defense
    entry: DefenseEntry
    shares_restorations: bool = False
    """Whether it shares_restorations what other measurements restored: for the record's cost."""


def default_config(name: str) -> DefenseConfig:
    """The settings that a name in :data:`DEFENSES` stands for. Raises UnknownNameError."""
    if name not in DEFENSES:
        raise UnknownNameError("defense", name, DEFENSES)
    return DEFENSES[name]


def settings_in_force(config: DefenseConfig) -> dict[str, Any]:
    """Return what identifies a defense's settings in records and digests."""
    return config.to_dict() if isinstance(config, BDMAEConfig) else dataclasses.asdict(config)


def make_defense(
    name: str,
    config: DefenseConfig | None = None,
    *,
    restorer: Callable[[], Restorer],
    restorer_name: str,
    key: Key = 0,
    device: str = "cpu",
) -> DefenseUnderTest:
    """Build a defense of :data:`DEFENSES`, with ``config`` in place of its own settings if given.

    restorer: loads the masked autoencoder; called for BDMAE only, other defenses build what they need. device: where a
    diffusion model runs; no setting of the record. In the record, settings that differ from the registry's follow the
    name in brackets. Raises UnknownNameError.
    """
    standard = default_config(name)
    config = standard if config is None else config
    label = name + _in_brackets(differences(standard, config))
    if isinstance(config, BDMAEConfig):
        defense: Defense = BDMAE(restorer(), config, key=key)
    else:
        on_device = isinstance(config, DiffusionSettings) and device != "cpu"
        defense = (dataclasses.replace(config, device=device) if on_device else config).build(key)
        restorer_name = getattr(config, "restorer", restorer_name)
    network = getattr(defense, "restorer", None)
    entry = DefenseEntry(
        name=label,
        config=json.loads(json.dumps(settings_in_force(config))),  # as it will be read back
        restorer=None if network is None else restorer_name,
        restorer_weights=getattr(network, "weights_digest", None),
        restorer_precision=getattr(network, "precision", None),
        key_fingerprint=None if name == "none" else key_fingerprint(key),
    )
    return DefenseUnderTest(defense=defense, entry=entry)


def _in_brackets(changed: dict[str, Any]) -> str:
    """``[a=1,b.c=2]`` for settings by name, or nothing."""
    return f"[{','.join(f'{name}={value}' for name, value in changed.items())}]" if changed else ""
