"""Clean victims that are part of the repository, so that fine-tuning starts from the same weights on every machine.

Training one takes 20 minutes to two hours on one or two processor cores, and the weights differ between machines. They
are in ``benchmarks/weights`` and not in the wheel: the product does not need them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open

from maskrestore.errors import CheckpointError
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.store import build_network, read_weights

__all__ = ["STARTS", "WEIGHTS_VARIABLE", "provided_start", "weights_folder"]

WEIGHTS_VARIABLE = "MASKRESTORE_WEIGHTS"
"""Environment variable with the folder of weights, needed when the package does not run from a checkout."""

STARTS: dict[str, VictimConfig] = {
    "cifar10-clean": VictimConfig(dataset="cifar10", width=32),
    "cifar10-choices-clean": VictimConfig(dataset="cifar10-choices", width=32),
    "cifar10-vit-small-clean": VictimConfig(dataset="cifar10", architecture="vit-small", width=32),
    "gtsrb-clean": VictimConfig(dataset="gtsrb", width=32),
}
"""Provided clean victims by name. The weights are ``benchmarks/weights/NAME.safetensors``."""


def weights_folder() -> Path:
    """Return the folder in ``MASKRESTORE_WEIGHTS``, else ``benchmarks/weights`` of the checkout of this package.

    The folder may not exist: an installed wheel is not in a checkout.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    # this file is src/maskrestore/lab/victims/starts.py below the root of a checkout
    return Path(named).expanduser() if named else Path(__file__).resolve().parents[4] / "benchmarks" / "weights"


def provided_start(config: VictimConfig) -> tuple[VictimNetwork, dict[str, Any]] | None:
    """Return the provided victim with this configuration and the record of its training, or ``None``.

    The provided weights are in half precision, so accuracies must be measured again. Raises CheckpointError when the
    file is missing, damaged or of another configuration.
    """
    name = next((name for name, start in STARTS.items() if start.digest() == config.digest()), None)
    if name is None:
        return None
    path = weights_folder() / f"{name}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"no {path.name} in {path.parent}: poisoned victims start from it. It is part of the repository, not of "
            f"the wheel. Set {WEIGHTS_VARIABLE} to the folder benchmarks/weights of a checkout, or train it: "
            f"{_command(config)}"
        )
    network = build_network(config)
    read_weights(network, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    record: dict[str, Any] = json.loads(metadata.get("record", "{}"))
    if record.get("digest") != config.digest():
        raise CheckpointError(f"{path} was trained with another recipe; train and export it: {_command(config)}")
    return network, {**record, "provided": name}


def _command(config: VictimConfig) -> str:
    """Return the command that trains this clean victim into the cache, where later fine-tuning finds it."""
    architecture = "" if config.architecture == "resnet18" else f" --set architecture={config.architecture}"
    return f"maskrestore train-victim --dataset {config.dataset}{architecture} --set width={config.width} --afresh"
