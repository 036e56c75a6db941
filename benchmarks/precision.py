"""Compare decisions in bfloat16 or int8 with those in float32, or float32 with and without Winograd convolutions.

    python -m benchmarks.precision --out precision.json
    python -m benchmarks.precision --dataset cifar10 --attack badnets:3x3-color --width 32 --count 500 --out cifar.json

Purifies clean test images, and as many triggered ones, twice with the same key: with the restorer in float32 and in
bfloat16; with ``--low int8`` in int8 instead, with ``--low direct`` in float32 with plain convolutions (see
``mae/fast/winograd.py``). The classifier computes in float32 both times, or with ``--lower-classifier`` in bfloat16 the
second time. The victim is the packaged one of street signs, or one of the cache (``maskrestore train-victim``). The
record holds the share of equal decisions, CA, BA and ASR of both runs, and the differences of purified pixels. A CPU
without bfloat16 instructions takes many times as long in bfloat16; use few images there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore import BDMAE, PROFILES, ModuleClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import Attack
from maskrestore.lab.data import ImageDataset, load_dataset
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.measure.metrics import accuracy, measure
from maskrestore.lab.measure.run import choose_images, triggered_images
from maskrestore.lab.victims import VictimConfig, load_packaged_victim, load_victim, victim_attack
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.choice import named_restorer
from maskrestore.mae.restorer import MAERestorer
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.precision import fast_arithmetic
from maskrestore.statistics import Rate
from maskrestore.types import Purification

PACKAGED = "signs-badnets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A victim and its test images."""

    config: VictimConfig
    network: nn.Module
    attack: Attack
    clean: tuple[Tensor, Tensor]
    """Images ``(N, C, H, W)`` in [0, 1] and their true labels ``(N,)``."""
    triggered: tuple[Tensor, Tensor]
    """Images with the trigger, and their true labels."""

    @classmethod
    def of(cls, config: VictimConfig, network: nn.Module, attack: Attack, test: ImageDataset, count: int) -> Trial:
        """Choose test images. count: images without the trigger, and as many with it."""
        clean = choose_images(test.labels, count, seed=0)
        chosen = choose_images(test.labels, count, seed=0, eligible=attack.eligible(test.labels))
        return cls(
            config=config,
            network=network,
            attack=attack,
            clean=(test.images[clean].float() / 255, test.labels[clean]),
            triggered=(triggered_images(test.images[chosen], attack), test.labels[chosen]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", help="data set of a victim in the cache [default: the packaged victim of street signs]"
    )
    parser.add_argument("--attack", help="attack that the victim is poisoned with")
    parser.add_argument("--width", type=int, default=32, help="width of the victim's ResNet-18")
    parser.add_argument("--count", type=int, default=200, help="images without the trigger, and as many with it")
    parser.add_argument("--profile", choices=list(PROFILES), default="default")
    parser.add_argument("--restorer", default="mae-tiny-32")
    parser.add_argument(
        "--low", choices=("bfloat16", "int8", "direct"), default="bfloat16", help="what to compare with float32"
    )
    parser.add_argument(
        "--lower-classifier", action="store_true", help="run the classifier in bfloat16 the second time"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if (arguments.dataset is None) != (arguments.attack is None):
        parser.error("--dataset and --attack go together")
    if arguments.low == "bfloat16" and fast_arithmetic(arguments.device) == "float32":
        print("this device has no bfloat16 instructions: the second run takes many times as long as the first")
    trial = make_trial(arguments.dataset, arguments.attack, arguments.width, arguments.count)
    found = {}
    for precision in ("float32", arguments.low):
        lower = arguments.lower_classifier and precision != "float32"
        classifier = ModuleClassifier(
            trial.network, precision="bfloat16" if lower else "float32", device=arguments.device
        )
        restorer = make_restorer(arguments.restorer, precision, arguments.device)
        defense = BDMAE(restorer, arguments.profile)
        found[precision] = [defense.purify(images, classifier) for images, _ in (trial.clean, trial.triggered)]
    record = {
        "benchmark": "precision",
        "victim": trial.config.canonical(),
        "victim_weights": weights_digest(trial.network),
        "profile": arguments.profile,
        "restorer": arguments.restorer,
        "classifier": "bfloat16 the second time" if arguments.lower_classifier else "float32",
        **comparison(trial, found),
        "environment": dataclasses.asdict(current_environment(arguments.device)),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(record))


def make_restorer(name: str, precision: str, device: str) -> MAERestorer:
    """precision: of :func:`named_restorer`; or ``direct``: float32 without Winograd convolutions.

    Raises ConfigError for ``direct`` if float32 has no Winograd convolutions.
    """
    if precision != "direct":
        return named_restorer(name, precision=precision, device=device)  # type: ignore[arg-type]
    network = load_network(name)
    if device != "cpu" or network.in_float32() is network:
        raise ConfigError(f"{name} on {device} has nothing but plain convolutions in float32")
    restorer = MAERestorer(network, precision="float32")
    restorer.network = network
    return restorer


def make_trial(dataset: str | None, attack: str | None, width: int, count: int) -> Trial:
    """The packaged victim with signs that no network was trained on, or a victim of the cache with its test split."""
    if dataset is None:
        packaged = load_packaged_victim(PACKAGED)
        # More than count, because images of the target class cannot carry the trigger.
        signs = load_signs("test", count=2 * count + 20)
        return Trial.of(packaged.config, packaged.network, packaged.attack, signs, count)
    config = VictimConfig(dataset=dataset, attack=attack, width=width)
    chosen = victim_attack(config)
    assert chosen is not None
    return Trial.of(config, load_victim(config), chosen, load_dataset(dataset, "test"), count)


def comparison(trial: Trial, found: dict[str, list[Purification]]) -> dict[str, Any]:
    """Agreement and rates. found: the results for clean and for triggered images, by precision; float32 is first."""
    full, low = found.values()
    first, second = (torch.cat([part.labels for part in parts]) for parts in (full, low))
    pixels = torch.cat([(a.images - b.images).abs().flatten() for a, b in zip(full, low, strict=True)])
    return {
        "equal_decisions": _rate(accuracy(second, first)),
        "equal_masks": _rate(Rate(sum(map(_equal_masks, full, low)), len(first))),
        "mean_pixel_difference": float(pixels.mean()),
        "largest_pixel_difference": float(pixels.max()),
        "rates": {precision: _rates(trial, *parts) for precision, parts in found.items()},
    }


def table(record: dict[str, Any]) -> str:
    """The record as a few lines of text."""
    lines = [f"equal decisions: {record['equal_decisions']['text']}, equal masks: {record['equal_masks']['text']}"]
    for precision, rates in record["rates"].items():
        lines.append(f"{precision}: " + ", ".join(f"{name} {rate['text']}" for name, rate in rates.items()))
    return "\n".join(lines)


def _rates(trial: Trial, clean: Purification, triggered: Purification) -> dict[str, Any]:
    true = trial.triggered[1]
    metrics = measure((clean.labels, trial.clean[1]), (triggered.labels, true, trial.attack.poisoned_label(true)))
    assert metrics.ba is not None
    assert metrics.asr is not None
    return {"CA": _rate(metrics.ca), "BA": _rate(metrics.ba), "ASR": _rate(metrics.asr)}


def _equal_masks(one: Purification, other: Purification) -> int:
    assert one.hidden is not None
    assert other.hidden is not None
    return int((one.hidden == other.hidden).flatten(1).all(dim=1).sum())


def _rate(rate: Rate) -> dict[str, Any]:
    return {"value": rate.value, "low": rate.low, "high": rate.high, "images": rate.trials, "text": str(rate)}


if __name__ == "__main__":
    main()
