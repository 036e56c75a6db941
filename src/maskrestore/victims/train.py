"""Train a victim, clean or with a backdoor, measure it, and keep it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.attacks import Attack, choose_poisoned, make_attack
from maskrestore.data import ImageDataset, load_dataset
from maskrestore.errors import DataError
from maskrestore.victims.config import VictimConfig
from maskrestore.victims.store import build_network, load_victim, read_record, save_victim, victim_path
from maskrestore.victims.training import Stamp, TrainingProgress, fit, predict

__all__ = ["VictimData", "measure", "train_victim", "victim_attack"]

_QUICK_CHECK = 2000  # test images for the accuracy that is reported while training; the last word is on all of them


@dataclass(frozen=True, kw_only=True)
class VictimData:
    """The two splits of a data set."""

    train: ImageDataset
    test: ImageDataset

    @classmethod
    def load(cls, name: str, folder: Path | str | None = None) -> VictimData:
        """Load both, as ``load_dataset`` does."""
        return cls(
            train=load_dataset(name, "train", folder=folder),
            test=load_dataset(name, "test", folder=folder),
        )


Report = Callable[[VictimConfig, TrainingProgress, float | None], None]
"""Called now and then; the last argument is the accuracy on 2,000 test images, once an epoch."""


def victim_attack(config: VictimConfig) -> Attack | None:
    """Build the attack that a victim was poisoned with, or ``None`` for a clean one."""
    if config.attack is None:
        return None
    spec = config.spec
    return make_attack(
        config.attack,
        num_classes=len(spec.class_names),
        image_size=spec.image_size,
        target=config.target,
        mode=config.mode,
        seed=config.seed,
        position=config.position,
    )


def train_victim(
    config: VictimConfig,
    data: VictimData,
    *,
    cache: Path | str | None = None,
    report: Report = lambda config, state, accuracy: None,
) -> dict[str, Any]:
    """Train the victim unless the cache holds it; returns its record.

    A fine-tuned victim trains the clean one first if that is missing. A stopped run goes on where its last
    epoch ended. Triggers are put in after augmentation, so that they lie where they do at test time; the
    images that carry them are the same in every epoch.

    The record holds the configuration, its digest and that of the clean victim, the accuracy on the test
    split ("clean_accuracy"), on triggered test images ("backdoor_accuracy", and "attack_success_rate"; the
    target class excluded), and the seconds of training.

    Raises DataError when the data are not those of ``config.dataset``, CheckpointError when a file in the
    cache is broken, ConfigError when the attack does not fit or training diverges.
    """
    known = read_record(config, cache)
    if known is not None:
        return known
    for split in (data.train, data.test):
        if split.name != config.dataset:
            raise DataError(f"the victim is of {config.dataset}, but the data are {split.name}")
    attack = victim_attack(config)
    network = _start(config, data, cache, report)
    path = victim_path(config, cache)

    def on_report(state: TrainingProgress, network: nn.Module) -> None:
        checked = None
        if state.epoch % 1 == 0 or state.step == state.steps:
            checked = _accuracy(network, data.test.images[:_QUICK_CHECK], data.test.labels[:_QUICK_CHECK])
            network.train()
        report(config, state, checked)

    seconds = fit(
        network,
        data.train.images,
        *_plan(data.train.labels, attack, config),
        config.training,
        seed=config.seed,
        tag=config.digest(),
        checkpoint=path.with_suffix(".state.pt"),
        on_report=on_report,
    )
    record = {
        "digest": config.digest(),
        "config": config.canonical(),
        **measure(network, data.test, attack),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    save_victim(config, network, record, cache)
    path.with_suffix(".state.pt").unlink(missing_ok=True)
    return record


def measure(network: nn.Module, test: ImageDataset, attack: Attack | None) -> dict[str, Any]:
    """Measure a victim on a whole test split, in bfloat16 arithmetic: see ``train_victim`` for the keys."""
    values: dict[str, Any] = {"clean_accuracy": _accuracy(network, test.images, test.labels)}
    if attack is not None:
        eligible = attack.eligible(test.labels)
        labels = test.labels[eligible]
        answers = predict(network, attack.apply(test.images[eligible].float() / 255))
        values["backdoor_accuracy"] = (answers == labels).double().mean().item()
        values["attack_success_rate"] = (answers == attack.poisoned_label(labels)).double().mean().item()
        values["triggered_images"] = len(labels)
    values["test_images"] = len(test.labels)
    return values


def _start(config: VictimConfig, data: VictimData, cache: Path | str | None, report: Report) -> nn.Module:
    """Return the network before training: the clean victim's, or a new one."""
    if config.fine_tuned:
        train_victim(config.clean(), data, cache=cache, report=report)
        return load_victim(config.clean(), cache)
    pixels = data.train.images[::10].float() / 255  # a tenth is plenty for two numbers per channel
    deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    return build_network(config, mean=tuple(mean.tolist()), std=tuple(deviation.tolist()))


def _plan(labels: Tensor, attack: Attack | None, config: VictimConfig) -> tuple[Tensor, Stamp]:
    """Return the indices that an epoch shows, and what gives a batch its labels and, in part, the trigger."""
    everything = torch.arange(len(labels))
    if attack is None:
        return everything, lambda images, indices: (images, labels[indices])
    chosen = choose_poisoned(labels, attack, config.poison_rate, config.seed)
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    poisoned[chosen] = True

    def stamp(images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        triggered, own = poisoned[indices], labels[indices]
        stamped = torch.where(triggered[:, None, None, None], attack.apply(images), images)
        return stamped, torch.where(triggered, attack.poisoned_label(own), own)

    return torch.cat([everything, chosen.repeat(config.poison_repeats - 1)]), stamp


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (predict(network, images) == labels).double().mean().item()
