"""Measure a defense on a classifier that is not one of the cache's victims."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import nn

from maskrestore.lab.attacks import Attack
from maskrestore.lab.data import ImageDataset
from maskrestore.lab.measure.defenses import DefenseConfig, VictimUnderTest, make_defense, restorer_of
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.measure.records import Record, VictimEntry
from maskrestore.lab.measure.run import evaluate
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.choice import DEFAULT_RESTORER, named_restorer
from maskrestore.runtime.digests import digest_of_json
from maskrestore.types import Classifier

__all__ = ["measured"]


def measured(
    test: ImageDataset,
    classifier: Classifier,
    network: nn.Module,
    config: dict[str, Any],
    *,
    defense: str,
    settings: DefenseConfig | None = None,
    attack: Attack | None = None,
    count: int,
    out: Path,
    name: str,
) -> Record:
    """Measure a defense on ``count`` clean images and as many triggered ones, unless ``out`` has the record.

    network: of the classifier, whose weights the record identifies. config: what the record says of the victim.
    defense, settings: as for ``make_defense``. name: of the record.
    """
    entry = VictimEntry(
        config=config,
        digest=digest_of_json(config),
        weights=weights_digest(network) or "",
        precision="float32",
        ca=None,
        asr=None,
    )
    restorer = restorer_of(DEFAULT_RESTORER, test.name)
    return evaluate(
        test,
        attack,
        VictimUnderTest(classifier=classifier, entry=entry),
        make_defense(
            defense,
            settings,
            dataset=test.name,
            restorer=functools.partial(named_restorer, restorer),
            restorer_name=restorer,
        ),
        clean_count=count,
        triggered_count=count,
        out=cell_records(out),
        name=name,
        keep_existing=True,
    )
