"""``maskrestore detect``: measure detectors, which score images and do not purify them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskrestore.cli.lab.results import progress_of, show_detection
from maskrestore.cli.lab.train_victim import victim_config
from maskrestore.cli.lab.victim_options import (
    CleanCountOption,
    DatasetOption,
    SeedOption,
    TargetOption,
    TrainOption,
    TriggeredCountOption,
    VictimSetOption,
    victim_from_cache,
)
from maskrestore.cli.options import CacheOption, DataOption, DeviceOption, KeyFileOption, read_key
from maskrestore.cli.terminal import progress, say
from maskrestore.lab.attacks import ATTACKS
from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.data import load_dataset
from maskrestore.lab.measure.detection import detect as run_detection
from maskrestore.lab.measure.detection import detection_records, make_detector
from maskrestore.lab.victims import victim_attack

__all__ = ["detect"]


def detect(
    *,
    dataset: DatasetOption = "cifar10",
    attack: Annotated[
        list[str],
        typer.Option(
            help=f"Attack that poisoned the victim ({', '.join(ATTACKS)}) and, after a colon, its variant. May be "
            "repeated."
        ),
    ],
    detector: Annotated[list[str], typer.Option(help=f"Detector to measure: {', '.join(DETECTORS)}. May be repeated.")],
    clean: CleanCountOption = 500,
    triggered: TriggeredCountOption = 500,
    seed: SeedOption = 0,
    target: TargetOption = 0,
    victim_settings: VictimSetOption = None,
    train: TrainOption = False,
    device: DeviceOption = "cpu",
    key_file: KeyFileOption = None,
    out_path: Annotated[
        Path, typer.Option("--out", help="File for the records (`NAME.jsonl`), or a folder for `detections.jsonl`.")
    ] = Path("runs/evaluation"),
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Measure how well detectors tell triggered images from clean ones, on the test split of a data set.

    Prints the area under the ROC curve (AUROC) with its 95 % interval, and the queries. The images are those that
    `maskrestore evaluate` takes for the same attack, counts and seed; its records have the AUROC of a defense's own
    suspicion. Adds one record for each attack and detector to the JSONL file of `--out`.

    After Ctrl-C the same command resumes.

    Example:

        maskrestore detect --attack badnets:3x3-color --detector strip --detector scale-up --train
    """
    key = read_key(key_file, warn_without=False)
    victims = [victim_config(dataset, name, target, victim_settings or []) for name in attack]
    detectors = [make_detector(name, key=key) for name in detector]
    test = load_dataset(dataset, "test", folder=data)
    records = detection_records(out_path)
    for config in victims:
        victim = victim_from_cache(config, victim_settings or [], cache, data, train=train, device=device)
        trigger = victim_attack(config, cache)  # after loading the victim, whose training writes a learned trigger
        assert trigger is not None, "every victim here has an attack"
        for one in detectors:
            with progress(f"{config.attack}, {one.name}") as update:
                record = run_detection(
                    test,
                    trigger,
                    victim,
                    one,
                    clean_count=clean,
                    triggered_count=triggered,
                    seed=seed,
                    out=records,
                    device=device,
                    progress=progress_of(update),
                )
            show_detection(record)
    records.compact()
    say(f"records are in {records.path}")
