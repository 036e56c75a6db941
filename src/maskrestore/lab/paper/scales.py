"""The scales of a reproduction, the cells of a table or figure at a scale, and estimates of their time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from maskrestore.errors import UnknownNameError
from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Cell, Scale, expand
from maskrestore.lab.paper.layouts import Curves, Experiment, Pictures, Table
from maskrestore.lab.victims import VictimConfig
from maskrestore.mae.restorer import DEFAULT_RESTORER
from maskrestore.runtime.environment import Environment

__all__ = [
    "SCALES",
    "SPEEDS",
    "cells_of",
    "estimated_seconds",
    "experiment",
    "measured_speeds",
    "scale_of",
    "victims_of",
]

_DIFFUSION = frozenset({"diffpure-ddpm", "diffpure-sde", "zip", "sampdetox"})
_ONE_BY_ONE = frozenset({"patchcleanser", "patchcleanser-variant", "patchcleanser-second-round", "strip"})

SCALES: dict[str, Scale] = {
    # A check that everything works: tiny victims that have learned little, and a handful of images.
    "smoke": Scale(
        images=4,
        slow_images=2,
        curve_images=2,
        slow=_DIFFUSION | _ONE_BY_ONE,
        width=8,
        init="scratch",
        repeats=1,
        repeats_large=1,
        most_cases=1,
        epochs=0.2,
    ),
    # Two cores, hours: half-width victims fine-tuned from one clean model.
    "local": Scale(
        images=500,
        slow_images=200,
        curve_images=100,
        slow=_DIFFUSION | _ONE_BY_ONE,
        width=32,
        init="clean",
        repeats=1,
        repeats_large=1,
    ),
    # The paper's size (5.1 and appendix B.1), with an accelerator.
    "full": Scale(
        images=None,
        slow_images=500,
        curve_images=500,
        slow=_DIFFUSION,
        width=64,
        init="scratch",
        repeats=14,
        repeats_large=6,
    ),
}
"""Scales by name."""

SPEEDS: dict[str, float] = {
    "bdmae": 16,
    "bdmae-paper": 9,
    "bdmae-fast": 50,
    "bdmae-paper-fast": 45,
    "patchcleanser": 2,
    "patchcleanser-variant": 2,
    "patchcleanser-second-round": 2,
    "februus-xgradcam": 30,
    "februus-gradcam++": 30,
    "lite-bd": 20,
    "lite-bd-half": 20,
    "majority-vote": 30,
    "strip": 3,
    "scale-up": 30,
    "diffpure-ddpm": 0.1,
    "diffpure-sde": 0.1,
    "zip": 0.1,
    "sampdetox": 0.1,
}
"""Images per second on two cores, roughly, for estimates where nothing has been measured; 300 for what is not here."""


def experiment(name: str) -> Experiment:
    """Look a table or figure up. Raises UnknownNameError, which lists the known ones."""
    if name not in EXPERIMENTS:
        raise UnknownNameError("table or figure", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def scale_of(name: str) -> Scale:
    """Look a scale up. Raises UnknownNameError."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]


def cells_of(
    chosen: Experiment,
    scale: Scale,
    *,
    repeats: int | None = None,
    restorer: str = DEFAULT_RESTORER,
    diffusion: str | None = None,
) -> list[Cell]:
    """The cells that a table or figure is made of at a scale; pictures have none. Arguments as of ``expand``.

    Points of curves take fewer images than cells of tables, and share their work.
    """
    if isinstance(chosen, Curves):
        scale = dataclasses.replace(scale, images=scale.curve_images, shares_restorations=True)
    elif scale.images is None and isinstance(chosen, Table):
        scale = dataclasses.replace(scale, images=chosen.most_images)
    return expand(chosen.entries(scale.most_cases), scale, repeats=repeats, restorer=restorer, diffusion=diffusion)


def victims_of(chosen: Experiment, scale: Scale) -> list[VictimConfig]:
    """The victims that pictures are drawn from; of tables and curves none but those of their cells."""
    if not isinstance(chosen, Pictures):
        return []
    return [Cell(case=case, variant=chosen.variants[0], scale=scale).victim for case in chosen.cases]


def estimated_seconds(cells: Sequence[Cell], measured: Mapping[str, float] | None = None) -> float:
    """How long one core takes for cells, without the training of victims.

    measured: core-seconds per image by the name of a defense, as ``measured_speeds`` finds them; where it knows
    nothing, the rough images per second of two cores in ``SPEEDS``.
    """

    def seconds(cell: Cell) -> float:
        parts = 1 if cell.case.attack is None else 2
        images = parts * (cell.count or _WHOLE.get(cell.case.dataset, 10_000))
        alone = images * (measured or {}).get(cell.variant.defense, 2 / SPEEDS.get(cell.variant.defense, 300))
        return alone / _SHARED if cell.scale.shares_restorations else alone

    return sum(seconds(cell) for cell in cells)


def measured_speeds(records: Iterable[Record | DetectionRecord], environment: Environment) -> dict[str, float]:
    """Mean core-seconds per image of each defense and detector over the records that this hardware made: as if all
    threads of a run were busy.

    Settings in brackets after a name are ignored: all settings of a defense share one mean.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        made_on = record.environment
        if isinstance(record, Record) and record.cost.recalled:
            continue
        if (made_on.device, made_on.accelerator) == (environment.device, environment.accelerator):
            defense = record.defense.name if isinstance(record, Record) else record.detector
            images = record.clean_images + record.triggered_images
            seconds = record.cost.seconds if isinstance(record, Record) else record.seconds
            found.setdefault(defense.partition("[")[0], []).append(seconds * made_on.threads / images)
    return {name: sum(values) / len(values) for name, values in found.items()}


_SHARED = 3
"""How many times cheaper a point of a curve is than a cell of its own: 62 points of one victim took about a quarter."""
_WHOLE = {"cifar10": 10_000, "gtsrb": 12_630}
"""Images of whole test splits."""
