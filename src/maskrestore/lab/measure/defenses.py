"""The defenses by name, and defenses and victims with their entries for a record."""

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
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.measure.records import DefenseEntry, VictimEntry
from maskrestore.mae.choice import DEFAULT_RESTORER
from maskrestore.runtime.settings import differences
from maskrestore.types import Classifier, Defense, Purification, Restorer

__all__ = [
    "DEFENSES",
    "DefenseConfig",
    "DefenseUnderTest",
    "NoDefense",
    "NoDefenseConfig",
    "VictimUnderTest",
    "config_for",
    "default_config",
    "make_defense",
    "restorer_of",
    "settings_in_force",
    "with_cam_layer",
]


@dataclass(frozen=True, kw_only=True)
class NoDefenseConfig:
    """The settings of :class:`NoDefense`: none."""

    def build(self, key: Key = 0) -> Defense:
        """Build the defense. It is deterministic: ``key`` is not used."""
        return NoDefense()


class NoDefense:
    """Returns the classifier's label of the original image. All defenses are compared with it."""

    def purify(self, images: Tensor, classifier: Classifier) -> Purification:
        """Return ``(B, C, H, W)`` images unchanged, with their labels. One query per image."""
        labels = classifier(images)
        return Purification(
            images=images,
            labels=labels,
            original_labels=labels,
            queries=torch.ones(len(images), dtype=torch.int64),
        )


DefenseConfig = BDMAEConfig | BaselineConfig
"""Settings of a defense. A baseline's settings build it; BDMAE also needs a restorer."""

DEFENSES: dict[str, DefenseConfig] = {
    "none": NoDefenseConfig(),
    "bdmae": PROFILES["default"],
    "bdmae-paper": PROFILES["paper"],
    "bdmae-fast": PROFILES["fast"],
    "bdmae-paper-fast": PROFILES["paper-fast"],
    **BASELINES,
}
"""Default settings of the defenses by name. The type of the settings determines the defense."""


@dataclass(frozen=True, kw_only=True)
class VictimUnderTest:
    """A classifier, with its entry for a record."""

    classifier: Classifier
    entry: VictimEntry


@dataclass(frozen=True, kw_only=True)
class DefenseUnderTest:
    """A defense, with its entry for a record."""

    defense: Defense
    entry: DefenseEntry
    shares_restorations: bool = False
    """Whether it uses restorations cached by other measurements. The record notes it as ``Cost.recalled``."""


def default_config(name: str) -> DefenseConfig:
    """Return the default settings of a defense in :data:`DEFENSES`. Raises UnknownNameError."""
    if name not in DEFENSES:
        raise UnknownNameError("defense", name, DEFENSES)
    return DEFENSES[name]


_CAM_LAYERS: dict[str, str | None] = {
    "conv6": "stages.2",
    "vgg16": "stages.2",
    **dict.fromkeys(("efficientnet-lite0", "efficientnet-lite2", "resnet50-pretrained", "vit-small")),
}
"""Februus's layer in networks without four ``stages``: maps of 8x8 positions for images of 32 pixels, or with ``None``
the last feature map."""


def with_cam_layer(config: Any, architecture: str) -> Any:
    """Return settings whose ``layer`` is one that the architecture has. Settings without a layer stay the same."""
    if architecture not in _CAM_LAYERS or not hasattr(config, "layer"):
        return config
    return dataclasses.replace(config, layer=_CAM_LAYERS[architecture])


def restorer_of(name: str, dataset: str) -> str:
    """Return the name of a restorer; for ``auto``, that of the packaged weights for the images of a data set."""
    return dataset_spec(dataset).restorer if name == DEFAULT_RESTORER else name


def config_for(config: Any, dataset: str, restorer_name: str) -> Any:
    """Return settings without what has no effect on the images of a data set.

    The restorer ``auto`` becomes the one of this name, and stages that are only for photographs, or only for small
    images, are dropped. So records do not depend on them.
    """
    if getattr(config, "restorer", None) == DEFAULT_RESTORER:
        return dataclasses.replace(config, restorer=restorer_name)
    if isinstance(config, BDMAEConfig):
        return config.in_force(photographs=dataset_spec(dataset).photographs)
    return config


def settings_in_force(config: DefenseConfig) -> dict[str, Any]:
    """Return the settings of a defense as a dictionary, for records and digests."""
    return config.to_dict() if isinstance(config, BDMAEConfig) else dataclasses.asdict(config)


def make_defense(
    name: str,
    config: DefenseConfig | None = None,
    *,
    dataset: str,
    restorer: Callable[[], Restorer],
    restorer_name: str,
    key: Key = 0,
    device: str = "cpu",
) -> DefenseUnderTest:
    """Build a defense of :data:`DEFENSES`, with its default settings or those in ``config``.

    dataset: whose images it will get. restorer: loads the masked autoencoder; called for BDMAE only, other defenses
    load their own networks. restorer_name: its name, for the record; not ``auto``, see :func:`restorer_of`. device:
    where a diffusion model runs; it is not recorded as a setting. The name in the record has the changed settings in
    brackets. Raises UnknownNameError for an unknown name, and what loading the networks raises.
    """
    standard = default_config(name)
    config = standard if config is None else config
    label = name + _in_brackets(differences(standard, config))
    config = config_for(config, dataset, restorer_name)
    if isinstance(config, BDMAEConfig):
        defense: Defense = BDMAE(restorer(), config, key=key)
    else:
        on_device = isinstance(config, DiffusionSettings) and device != "cpu"
        defense = (dataclasses.replace(config, device=device) if on_device else config).build(key)
        restorer_name = getattr(config, "restorer", restorer_name)
    network = getattr(defense, "restorer", None)
    entry = DefenseEntry(
        name=label,
        config=json.loads(json.dumps(settings_in_force(config))),  # as read from a file: tuples become lists
        restorer=None if network is None else restorer_name,
        restorer_weights=getattr(network, "weights_digest", None),
        restorer_precision=getattr(network, "precision", None),
        key_fingerprint=None if name == "none" else key_fingerprint(key),
    )
    return DefenseUnderTest(defense=defense, entry=entry)


def _in_brackets(changed: dict[str, Any]) -> str:
    """Return ``[a=1,b.c=2]`` for settings by name, or "" without any."""
    return f"[{','.join(f'{name}={value}' for name, value in changed.items())}]" if changed else ""
