"""``maskrestore evaluate``: measure defenses on classifiers with and without a backdoor."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import typer

from maskrestore.cli.lab.results import progress_of, show_record
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
from maskrestore.cli.options import (
    CacheOption,
    DataOption,
    DefenseSetOption,
    DeviceOption,
    KeyFileOption,
    MaxQueriesOption,
    RestorerOption,
    read_key,
)
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import progress, say
from maskrestore.defense.beyond_paper.budget import within
from maskrestore.defense.config import BDMAEConfig
from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import ATTACKS
from maskrestore.lab.data import load_dataset
from maskrestore.lab.measure.defenses import (
    DEFENSES,
    DefenseConfig,
    DefenseUnderTest,
    NoDefenseConfig,
    default_config,
    make_defense,
    restorer_of,
    with_cam_layer,
)
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.measure.run import evaluate as run_evaluation
from maskrestore.lab.victims import victim_attack
from maskrestore.mae.choice import DEFAULT_RESTORER, named_restorer
from maskrestore.runtime.environment import current_environment

__all__ = ["evaluate"]

CLEAN = "none"
"""Value of ``--attack`` for a clean model."""


def evaluate(
    *,
    dataset: DatasetOption = "cifar10",
    attack: Annotated[
        list[str],
        typer.Option(
            help=f"Attack that poisoned the victim ({', '.join(ATTACKS)}) and, after a colon, its variant; "
            f"`{CLEAN}` for a clean model. May be repeated.",
        ),
    ],
    defense: Annotated[list[str], typer.Option(help=f"Defense to measure: {', '.join(DEFENSES)}. May be repeated.")],
    clean: CleanCountOption = 500,
    triggered: TriggeredCountOption = 500,
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Use only test photographs whose path contains this text, e.g. `ILSVRC2012_val` for those of "
            "`imagenette` that no network pretrained on ImageNet has seen.",
        ),
    ] = None,
    seed: SeedOption = 0,
    target: TargetOption = 0,
    victim_settings: VictimSetOption = None,
    train: TrainOption = False,
    settings: DefenseSetOption = None,
    max_queries: MaxQueriesOption = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    device: DeviceOption = "cpu",
    key_file: KeyFileOption = None,
    out_path: Annotated[
        Path, typer.Option("--out", help="File for the records (`NAME.jsonl`), or a folder for `cells.jsonl`.")
    ] = Path("runs/evaluation"),
    again: Annotated[bool, typer.Option("--again", help="Measure again even if `--out` has the record.")] = False,
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Measure defenses on classifiers with and without a backdoor, on the test split of a data set.

    Prints clean accuracy (CA), accuracy on triggered images (BA) and attack success rate (ASR) before and after each
    defense, with binomial 95 % intervals, and the costs. Adds one record for each attack and defense to the JSONL file
    of `--out`; `maskrestore table` makes tables from records. All attacks and defenses use the same test images. A
    defense sees the images and the classifier's labels, nothing else.

    After Ctrl-C the same command resumes.

    Examples:

        maskrestore evaluate --dataset cifar10 --attack badnets:3x3-color --defense bdmae

        maskrestore evaluate --attack none --attack badnets:2x2-white --defense bdmae --defense bdmae-paper
        --train

        maskrestore evaluate --attack corners --defense bdmae-paper --set scores.label_score=contrast
    """
    key = read_key(key_file, warn_without=False)
    victims = [
        victim_config(dataset, None if name == CLEAN else name, target, victim_settings or []) for name in attack
    ]
    defenses = _defenses(
        defense,
        settings or [],
        dataset=dataset,
        architecture=victims[0].architecture,
        restorer=restorer_of(restorer, dataset),
        device=device,
        key=key,
        max_queries=max_queries,
    )
    test = load_dataset(dataset, "test", folder=data)
    test = test if pictures is None else test.named(pictures)
    records = cell_records(out_path)
    for config in victims:
        victim = victim_from_cache(config, victim_settings or [], cache, data, train=train, device=device)
        trigger = victim_attack(config, cache)  # after loading the victim, whose training writes a learned trigger
        for one in defenses:
            with progress(f"{config.attack or 'clean model'}, {one.entry.name}") as update:
                record = run_evaluation(
                    test,
                    trigger,
                    victim,
                    one,
                    clean_count=clean,
                    triggered_count=triggered,
                    seed=seed,
                    out=records,
                    keep_existing=not again,
                    device=device,
                    progress=progress_of(update),
                )
            show_record(record)
            _say_if_old(record.environment.commit)
    records.compact()
    say(f"records are in {records.path}")


def _defenses(
    names: list[str],
    settings: list[str],
    *,
    dataset: str,
    architecture: str,
    restorer: str,
    device: str,
    key: bytes | int,
    max_queries: int | None,
) -> list[DefenseUnderTest]:
    """Build all defenses before measuring, so that invalid options fail early.

    Raises UnknownNameError or ConfigError for an invalid name, setting or option.
    """
    configs = {name: with_cam_layer(default_config(name), architecture) for name in names}
    load = functools.cache(lambda: named_restorer(restorer, device=device))  # all defenses share the weights

    def changed(config: DefenseConfig) -> DefenseConfig:
        """Apply the settings that this defense has, and those that no defense has, so that they raise an error."""
        known = {field.name for field in dataclasses.fields(config)}
        chosen = with_overrides(config, [text for text in settings if _setting(text) in known or text in unknown])
        if max_queries is None or isinstance(chosen, NoDefenseConfig):
            return chosen
        if not isinstance(chosen, BDMAEConfig):
            able = ", ".join(name for name, config in DEFENSES.items() if isinstance(config, BDMAEConfig))
            raise ConfigError(f"--max-queries is for {able} and none only; leave it out for the other defenses")
        return within(chosen, max_queries)

    all_known = {field.name for config in configs.values() for field in dataclasses.fields(config)}
    unknown = [text for text in settings if _setting(text) not in all_known]
    return [
        make_defense(
            name,
            changed(config),
            dataset=dataset,
            restorer=load,
            restorer_name=restorer,
            key=key,
            device=device,
        )
        for name, config in configs.items()
    ]


def _setting(text: str) -> str:
    """Return the first part of a dotted name: ``masks`` for ``masks.rounds=3``."""
    return text.partition("=")[0].partition(".")[0].strip()


def _say_if_old(commit: str) -> None:
    now = current_environment().commit
    if commit != now:
        say(f"kept the record of revision {commit}; this is {now}. To measure it again, add --again")
