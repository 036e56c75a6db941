"""Victims that are part of the package, for the demo and for examples."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from maskrestore.errors import CheckpointError, UnknownNameError
from maskrestore.lab.attacks import Attack
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.pretrained import PretrainedNetwork
from maskrestore.lab.victims.recipe import default_recipe
from maskrestore.lab.victims.resnet import ResNet18
from maskrestore.lab.victims.store import build_network, load_victim, read_victim_record, read_weights
from maskrestore.lab.victims.train import victim_attack

__all__ = ["PACKAGED", "PackagedVictim", "export_victim", "load_packaged_victim", "read_feature_extractor"]

PACKAGED: dict[str, VictimConfig] = {
    "signs-badnets": VictimConfig(
        dataset="signs",
        width=16,
        attack="badnets:3x3-color",
        target=4,
        position=(21, 14),
        init="scratch",
        poison_repeats=3,
        recipe=default_recipe("signs", fine_tuned=False),
    ),
    "signs-224-badnets": VictimConfig(
        dataset="signs-224",
        width=8,
        attack="badnets:icon-flower",
        target=4,
        position=(150, 104),
        init="scratch",
        poison_repeats=2,
        recipe=replace(default_recipe("signs-224", fine_tuned=False), epochs=10),
    ),
}
"""Packaged victims by name. The weights are ``assets/NAME.safetensors``."""


@dataclass(frozen=True, kw_only=True)
class PackagedVictim:
    """A classifier with a backdoor, and its attack."""

    config: VictimConfig
    network: nn.Module
    """Maps ``(B, 3, H, W)`` images in [0, 1] to logits ``(B, classes)``."""
    attack: Attack
    class_names: tuple[str, ...]


def load_packaged_victim(name: str) -> PackagedVictim:
    """Load a packaged victim, in evaluation mode.

    Raises UnknownNameError for an unknown name and CheckpointError when the weights are missing or damaged.
    """
    if name not in PACKAGED:
        raise UnknownNameError("packaged victim", name, PACKAGED)
    config = PACKAGED[name]
    attack = victim_attack(config)
    assert attack is not None
    with as_file(files("maskrestore") / "assets" / f"{name}.safetensors") as path:
        network = build_network(config)
        read_weights(network, path)
    return PackagedVictim(config=config, network=network, attack=attack, class_names=config.spec.class_names)


def export_victim(config: VictimConfig, path: Path, cache: Path | str | None = None) -> Path:
    """Write a trained victim's weights in half precision, with its record as metadata. Returns ``path``.

    Raises CheckpointError when the victim has not been trained or its files are broken.
    """
    state = load_victim(config, cache).state_dict()
    half = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state.items()}
    assert all(torch.isfinite(value).all() for value in half.values())
    record = json.dumps(read_victim_record(config, cache))
    save_file(half, path, metadata={"config": json.dumps(config.canonical()), "record": record})
    return path


def read_feature_extractor(source: str | Path) -> ResNet18 | PretrainedNetwork:
    """Load a network whose feature maps a restorer is to keep, with frozen weights, in evaluation mode.

    source: a file with a ResNet-18 that :func:`export_victim` wrote, or the name of a pretrained architecture, such as
    "efficientnet-lite2". Raises CheckpointError for any other file, and what loading pretrained weights raises.
    """
    architecture = ARCHITECTURES.get(str(source))
    if architecture is not None and issubclass(architecture, PretrainedNetwork):
        pretrained = architecture(2, mean=architecture.INPUT_MEAN, std=architecture.INPUT_STD)
        pretrained.load_backbone(None)
        return pretrained.eval().requires_grad_(False)
    path = Path(source)
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
        network = ResNet18(len(dataset_spec(config["dataset"]).class_names), width=config["width"])
    except Exception as error:  # not safetensors, or without the metadata of a victim
        raise CheckpointError(
            f"{path} is neither a victim that `maskrestore train-victim --export` wrote nor one of "
            f"{', '.join(name for name, one in ARCHITECTURES.items() if issubclass(one, PretrainedNetwork))}: {error}"
        ) from error
    read_weights(network, path)
    return network.requires_grad_(False)
