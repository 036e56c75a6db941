"""``maskrestore train-victim``: train a classifier, clean or with a backdoor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Generator, Tensor

from maskrestore.cli.options import CacheOption, DataOption, DeviceOption, TrainingSetOption
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, progress, say
from maskrestore.lab.attacks import ATTACKS
from maskrestore.lab.data import DATASETS
from maskrestore.lab.victims import (
    Restoration,
    TrainingProgress,
    VictimConfig,
    VictimData,
    export_victim,
    untrained_attack,
    victim_path,
)
from maskrestore.lab.victims import train_victim as train_network
from maskrestore.mae.checkpoints.loading import packaged_digest
from maskrestore.mae.choice import named_restorer

__all__ = ["train_victim", "train_with_progress", "victim_config"]

_RATES = ("clean_accuracy", "backdoor_accuracy", "attack_success_rate")


def train_victim(
    *,
    dataset: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "cifar10",
    attack: Annotated[
        str | None,
        typer.Option(
            help=f"Attack to poison with ({', '.join(ATTACKS)}) and, after a colon, its variant, e.g. "
            "`badnets:3x3-color`. Without it the classifier is clean.",
        ),
    ] = None,
    target: Annotated[int, typer.Option(min=0, help="Target class of the attack.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Also write the weights to this file, in half precision like the provided ones.")
    ] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Train it even if the repository provides its weights.")
    ] = False,
    device: DeviceOption = "cpu",
    settings: TrainingSetOption = None,
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Train a classifier, clean or with a backdoor, and measure it on the whole test split.

    The classifier is stored in the cache, where `maskrestore evaluate` finds it. A classifier that is already in the
    cache is not trained again. After Ctrl-C the same command resumes after the last complete epoch.

    An attacked classifier is fine-tuned from the clean one, which is trained first if it is missing. The repository
    provides some clean ones of half width (`--set width=32`) in `benchmarks/weights`: ResNet-18 for `cifar10`,
    `cifar10-choices` and `gtsrb`, vit-small for `cifar10`. For an installed package, set MASKRESTORE_WEIGHTS to that
    folder.

    `--set` changes any other setting, e.g. `--set width=32`, `--set poison_rate=0.05`, `--set position=1,1`
    or `--set recipe.epochs=30`.

    Example:

        maskrestore train-victim --dataset gtsrb --attack badnets:2x2-white --target 3 --set width=32
    """
    config = victim_config(dataset, attack, target, settings or [])
    record = train_with_progress(config, cache=cache, data=data, use_provided=not afresh, device=device)
    rates = {name: record[name] for name in _RATES if name in record}
    text = ", ".join(f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in rates.items())
    if export is not None:
        say(f"wrote {export_victim(config, export, cache)}")
    out.print(f"{text}; stored in {victim_path(config, cache)}", highlight=False, soft_wrap=True)


def victim_config(dataset: str, attack: str | None, target: int, settings: list[str]) -> VictimConfig:
    """Return the configuration of the victim. Raises ConfigError or UnknownNameError for invalid settings."""
    of_recipe = [setting for setting in settings if setting.startswith("recipe.")]
    others = [setting for setting in settings if setting not in of_recipe]
    config = with_overrides(VictimConfig(dataset=dataset, attack=attack, target=target), others)
    untrained_attack(config)  # detect an invalid attack before downloading data
    if config.restored_rate and config.restorer_weights is None:
        config = dataclasses.replace(config, restorer_weights=packaged_digest(config.spec.restorer))
    # The default recipe depends on the other settings, so the fields of the recipe are set last.
    return with_overrides(dataclasses.replace(config, recipe=config.training), of_recipe) if of_recipe else config


def train_with_progress(
    config: VictimConfig, *, cache: Path | None, data: Path | None, use_provided: bool = True, device: str = "cpu"
) -> dict[str, Any]:
    """Train a victim, or resume its training, and show a progress bar. Returns the record of the victim."""
    splits = VictimData.load(config.dataset, data)
    accuracies: dict[str, float] = {}
    with progress(f"train {config.attack or 'clean'}") as update:

        def show(trained: VictimConfig, state: TrainingProgress, accuracy: float | None) -> None:
            name = trained.attack or "clean"
            if accuracy is not None:
                accuracies[name] = accuracy
            checked = f", accuracy {100 * accuracies[name]:.1f} %" if name in accuracies else ""
            note = f"{name}: loss {state.loss:.3f}{checked}, {state.images_per_second:.0f} images/s"
            update(state.step, state.steps, note)

        def prepare(done: int, total: int) -> None:
            update(done, total, "activations of the first blocks")

        return train_network(
            config,
            splits,
            cache=cache,
            report=show,
            notify=prepare,
            restoration=restoration(config, device),
            use_provided=use_provided,
            device=device,
        )


def restoration(config: VictimConfig, device: str = "cpu") -> Restoration | None:
    """Return the restoration for a victim that is trained on restored images, else ``None``.

    It hides three quarters of the tokens at random and restores them with the default restorer.
    """
    if not config.restored_rate:
        return None
    restorer = named_restorer(config.spec.restorer, device=device)
    tokens = restorer.grid**2

    def apply(images: Tensor, generator: Generator) -> Tensor:
        ranks = torch.rand(len(images), tokens, generator=generator).argsort(1)
        hidden = (ranks < 3 * tokens // 4).view(-1, restorer.grid, restorer.grid)  # (B, g*g) -> (B, g, g)
        return restorer.restore(images, hidden)

    return Restoration(weights=restorer.weights_digest or "", apply=apply)
