"""Clean victims that come with the repository, so that poisoned fine-tunes start from the same weights everywhere.

Training one takes 20 minutes to two hours on one or two processor cores, and another machine ends at other weights.
They lie in ``benchmarks/weights`` and are not part of the wheel: the product does not need them.
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
"""Environment variable that names the folder of weights where the package is not used from a checkout."""

STARTS: dict[str, VictimConfig] = {
    "cifar10-clean": VictimConfig(dataset="cifar10", width=32),
    "cifar10-vit-small-clean": VictimConfig(dataset="cifar10", architecture="vit-small", width=32),
    "gtsrb-clean": VictimConfig(dataset="gtsrb", width=32),
}
"""Every provided start by its name; its weights are ``benchmarks/weights/NAME.safetensors``."""


def weights_folder() -> Path:
    """The folder that the environment names, else ``benchmarks/weights`` of the checkout that the package is in.

    The folder need not exist: an installed wheel is in no checkout.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    # starts.py, victims, lab, maskrestore, src, and then the root of a checkout
    return Path(named).expanduser() if named else Path(__file__).resolve().parents[4] / "benchmarks" / "weights"


def provided_start(config: VictimConfig) -> tuple[VictimNetwork, dict[str, Any]] | None:
    """Return the provided victim of exactly this configuration, or ``None`` when there is none.

    It comes with the record of its training; its weights are in half precision, so accuracies have to be measured
    again. Raises CheckpointError when the file is not there or not of this configuration.
    """
    name = next((name for name, start in STARTS.items() if start.digest() == config.digest()), None)
    if name is None:
        return None
    path = weights_folder() / f"{name}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"no {path.name} in {path.parent}: poisoned victims start from it, and it comes with the repository, not "
            f"with the wheel. Set {WEIGHTS_VARIABLE} to the folder benchmarks/weights of a checkout, or train your "
            f"own: {_command(config)}"
        )
    network = build_network(config)
    read_weights(network, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    record: dict[str, Any] = json.loads(metadata.get("record", "{}"))
    if record.get("digest") != config.digest():
        raise CheckpointError(f"{path} is of another recipe; train it again and export it: {_command(config)}")
    return network, {**record, "provided": name}


def _command(config: VictimConfig) -> str:
    """The command that trains a start. It is kept in the cache, where later fine-tunes find it."""
    architecture = "" if config.architecture == "resnet18" else f" --set architecture={config.architecture}"
    return f"maskrestore train-victim --dataset {config.dataset}{architecture} --set width={config.width} --afresh"
