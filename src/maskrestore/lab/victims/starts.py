"""Clean victims that travel with the package: poisoned fine-tunes begin at the same weights everywhere.

Training them again takes 20 minutes to two hours on one or two processor cores, and another machine ends at other
weights.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import Any

from safetensors import safe_open

from maskrestore.errors import CheckpointError
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.store import build_network, read_weights

__all__ = ["STARTS", "packaged_start"]

STARTS: dict[str, VictimConfig] = {
    "cifar10-clean": VictimConfig(dataset="cifar10", width=32),
    "cifar10-vit-small-clean": VictimConfig(dataset="cifar10", architecture="vit-small", width=32),
    "gtsrb-clean": VictimConfig(dataset="gtsrb", width=32),
}
"""Every packaged start by its name; its weights are ``assets/NAME.safetensors``."""


def packaged_start(config: VictimConfig) -> tuple[VictimNetwork, dict[str, Any]] | None:
    """Return the packaged victim of exactly this configuration, or ``None`` when there is none.

    It comes with the record of its training; weights are packaged in half precision, so accuracies have to be measured
    again. Raises CheckpointError when the package is damaged.
    """
    name = next((name for name, start in STARTS.items() if start.digest() == config.digest()), None)
    if name is None:
        return None
    network = build_network(config)
    with as_file(files("maskrestore") / "assets" / f"{name}.safetensors") as path:
        read_weights(network, path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    record: dict[str, Any] = json.loads(metadata.get("record", "{}"))
    if record.get("digest") != config.digest():
        raise CheckpointError(f"the packaged {name} is of another recipe; train it again and export it")
    return network, {**record, "packaged": name}
