"""The defenses that can be measured, by name, and the victim that they are measured on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.config import PROFILES, BDMAEConfig
from maskrestore.defense.streams import Key, key_fingerprint
from maskrestore.errors import UnknownNameError
from maskrestore.evaluation.records import DefenseEntry, VictimEntry
from maskrestore.types import Classifier, Defense, Purification, Restorer

__all__ = [
    "DEFENSES",
    "DefenseUnderTest",
    "NoDefense",
    "NoDefenseConfig",
    "VictimUnderTest",
    "default_config",
    "make_defense",
    "weights_digest",
]


@dataclass(frozen=True, kw_only=True)
class NoDefenseConfig:
    """There is nothing to set."""


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


DEFENSES: dict[str, NoDefenseConfig | BDMAEConfig] = {
    "none": NoDefenseConfig(),
    "bdmae": PROFILES["default"],
    "bdmae-paper": PROFILES["paper"],
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


def default_config(name: str) -> NoDefenseConfig | BDMAEConfig:
    """The settings that a name in :data:`DEFENSES` stands for. Raises UnknownNameError."""
    if name not in DEFENSES:
        raise UnknownNameError("defense", name, DEFENSES)
    return DEFENSES[name]


def make_defense(
    name: str,
    config: NoDefenseConfig | BDMAEConfig | None = None,
    *,
    restorer: Callable[[], Restorer],
    restorer_name: str,
    key: Key = 0,
) -> DefenseUnderTest:
    """Build a defense of :data:`DEFENSES`, with ``config`` in place of its own settings if given.

    restorer: loads the masked autoencoder; not called by defenses that have no use for it. In the record,
    settings that differ from the registry's follow the name in brackets. Raises UnknownNameError.
    """
    standard = default_config(name)
    config = standard if config is None else config
    label = name + _differences(standard, config)
    settings = json.loads(json.dumps(dataclasses.asdict(config)))  # as it will be read back
    if isinstance(config, NoDefenseConfig):
        entry = DefenseEntry(
            name=label,
            config=settings,
            restorer=None,
            restorer_weights=None,
            restorer_precision=None,
            key_fingerprint=None,
        )
        return DefenseUnderTest(defense=NoDefense(), entry=entry)
    network = restorer()
    entry = DefenseEntry(
        name=label,
        config=settings,
        restorer=restorer_name,
        restorer_weights=weights_digest(getattr(network, "network", None)),
        restorer_precision=getattr(network, "precision", None),
        key_fingerprint=key_fingerprint(key),
    )
    return DefenseUnderTest(defense=BDMAE(network, config, key=key), entry=entry)


def weights_digest(network: object) -> str | None:
    """Sixteen hex digits that identify the weights of a ``torch.nn.Module``; ``None`` for anything else."""
    if not isinstance(network, nn.Module):
        return None
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # Bytes, because numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _differences(standard: Any, config: Any) -> str:
    """``[a=1,b=2]`` for the fields of ``config`` that are not the standard's, or nothing."""
    changed = [
        f"{field.name}={getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(standard, field.name)
    ]
    return f"[{','.join(changed)}]" if changed else ""
