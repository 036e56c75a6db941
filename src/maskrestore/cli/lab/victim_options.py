"""Options that ``evaluate`` and ``detect`` share: which victim, and how many images; and the victim that they name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from maskrestore.cli.lab.train_victim import train_with_progress
from maskrestore.errors import CheckpointError
from maskrestore.lab.data import DATASETS
from maskrestore.lab.measure.defenses import VictimUnderTest
from maskrestore.lab.runner.resources import victim_under_test
from maskrestore.lab.victims import VictimConfig, read_victim_record

__all__ = [
    "CleanCountOption",
    "DatasetOption",
    "SeedOption",
    "TargetOption",
    "TrainOption",
    "TriggeredCountOption",
    "VictimSetOption",
    "victim_from_cache",
]

DatasetOption = Annotated[str, typer.Option(help=f"Data set, test split: {', '.join(DATASETS)}.")]
CleanCountOption = Annotated[int, typer.Option(min=1, help="Number of clean test images.")]
TriggeredCountOption = Annotated[int, typer.Option(min=1, help="Number of triggered test images.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the choice of test images.")]
TargetOption = Annotated[int, typer.Option(min=0, help="Target class of the attack.")]
TrainOption = Annotated[bool, typer.Option("--train", help="Train victims that are not in the cache.")]
VictimSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--victim",
        metavar="NAME=VALUE",
        help="Change one setting of the victim, as `--set` of `train-victim` does. May be repeated.",
    ),
]


def victim_from_cache(
    config: VictimConfig, settings: list[str], cache: Path | None, data: Path | None, *, train: bool, device: str
) -> VictimUnderTest:
    """Load a victim from the cache, or train it.

    settings: the options that describe it, for the error message. Raises CheckpointError when it is missing and
    ``train`` is False.
    """
    if read_victim_record(config, cache) is None:
        if not train:
            attack = ["--attack", config.attack, "--target", str(config.target)] if config.attack else []
            wanted = [word for setting in settings for word in ("--set", setting)]
            command = shlex.join(["maskrestore", "train-victim", "--dataset", config.dataset, *attack, *wanted])
            raise CheckpointError(f"the cache has no such victim; add --train, or run: {command}")
        train_with_progress(config, cache=cache, data=data, device=device)
    victim = victim_under_test(config, cache, device=device)
    assert victim is not None, "the victim is in the cache"
    return victim
