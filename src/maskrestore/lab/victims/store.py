"""The cache of trained victims: weights as safetensors, with a JSON record of the measurements beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from maskrestore.errors import CheckpointError
from maskrestore.lab.attacks import same_training
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.pretrained import PretrainedNetwork

__all__ = [
    "CACHE_VARIABLE",
    "build_network",
    "cache_folder",
    "load_trigger",
    "load_victim",
    "read_victim_record",
    "read_weights",
    "save_victim",
    "trigger_path",
    "victim_path",
]

CACHE_VARIABLE = "MASKRESTORE_CACHE"
"""Environment variable with the cache folder, used when no ``cache`` is given."""


def cache_folder(folder: Path | str | None = None) -> Path:
    """Return ``folder``, else the folder in ``MASKRESTORE_CACHE``, else ``maskrestore`` in the user's cache folder."""
    chosen = folder or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "maskrestore"


def victim_path(config: VictimConfig, cache: Path | str | None = None) -> Path:
    """Return the path of a victim's weights, whether it exists or not. The record has the suffix ``.json``."""
    attack = same_training(config.attack or "clean").replace(":", "-").replace("/", "-")
    name = f"{config.dataset}-{config.architecture}-w{config.width}-{attack}-{config.digest()[:16]}"
    return cache_folder(cache) / "victims" / f"{name}.safetensors"


def trigger_path(config: VictimConfig, cache: Path | str | None = None) -> Path:
    """Return the path of the trigger networks of an attack that learns its trigger, beside the victim's weights."""
    return victim_path(config, cache).with_suffix(".trigger.safetensors")


def build_network(
    config: VictimConfig,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.25, 0.25, 0.25),
) -> VictimNetwork:
    """Build the untrained network of a victim. ``config.seed`` determines its initial weights.

    mean, std: per channel, for pixels in [0, 1]. A pretrained network has its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # layers initialise from the global generator; fork_rng restores it
        classes = len(dataset_spec(config.dataset).class_names)
        architecture = ARCHITECTURES[config.architecture]
        if issubclass(architecture, PretrainedNetwork):
            mean, std = architecture.INPUT_MEAN, architecture.INPUT_STD
        return architecture(classes, width=config.width, mean=mean, std=std)


def save_victim(
    config: VictimConfig,
    network: nn.Module,
    record: dict[str, Any],
    cache: Path | str | None,
    *,
    trigger: nn.Module | None = None,
) -> Path:
    """Write the weights, the weights of a learned trigger and the record. Returns the path of the weights.

    The record is written last: a victim with a record is complete.
    """
    path = victim_path(config, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    if trigger is not None:
        _write(config, trigger, trigger_path(config, cache))
    _write(config, network, path)
    record_path = path.with_suffix(".json")
    partial = record_path.with_suffix(".json.partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(record_path)  # atomic, because other processes may be reading
    return path


def _write(config: VictimConfig, network: nn.Module, path: Path) -> None:
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"config": json.dumps(config.canonical())})
    partial.replace(path)


def read_victim_record(config: VictimConfig, cache: Path | str | None = None) -> dict[str, Any] | None:
    """Return the record of a trained victim, or ``None`` when it has not been trained.

    Raises CheckpointError for a record that is not JSON.
    """
    path = victim_path(config, cache).with_suffix(".json")
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not a readable record ({error}); delete it and train again") from error
    return record


def load_victim(config: VictimConfig, cache: Path | str | None = None) -> VictimNetwork:
    """Load a trained victim, in evaluation mode. It maps ``(B, 3, H, W)`` images in [0, 1] to logits.

    Raises CheckpointError when it has not been trained or its file is broken.
    """
    network = build_network(config)
    read_weights(network, victim_path(config, cache))
    return network


def load_trigger(config: VictimConfig, trigger: nn.Module, cache: Path | str | None = None) -> None:
    """Load the networks of a learned trigger into ``trigger``, in evaluation mode.

    Raises CheckpointError when the victim has not been trained or the file is broken.
    """
    read_weights(trigger, trigger_path(config, cache))


def read_weights(network: nn.Module, path: Path) -> None:
    """Load weights into ``network``, converted to its precision, and set it to evaluation mode.

    Raises CheckpointError when the file is missing or does not match the network.
    """
    if not path.exists():
        raise CheckpointError(f"no victim at {path}; train it first (train_victim, or `maskrestore train-victim`)")
    try:
        state = network.state_dict()
        network.load_state_dict({name: value.to(state[name].dtype) for name, value in load_file(path).items()})
    except Exception as error:  # for a broken file, safetensors and load_state_dict raise several types of errors
        raise CheckpointError(
            f"{path} does not hold this victim's weights; delete it and train again ({error})"
        ) from error
    network.eval()
