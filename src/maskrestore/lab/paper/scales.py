"""Scales, the cells of a table or figure at a scale, and estimates of the time they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from maskrestore.errors import UnknownNameError
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Cell, Scale, expand
from maskrestore.lab.paper.layouts import Curves, Experiment, Pictures, Table
from maskrestore.lab.victims import VictimConfig
from maskrestore.mae.choice import DEFAULT_RESTORER
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
    # A check that everything works: tiny, hardly trained victims and a few images.
    "smoke": Scale(
        images=4,
        slow_images=2,
        images_large=4,
        curve_images=2,
        slow=_DIFFUSION | _ONE_BY_ONE,
        width=8,
        init="scratch",
        repeats=1,
        repeats_large=1,
        most_cases=1,
        epochs=0.2,
    ),
    # Hours on two cores: half-width victims, fine-tuned from one clean model.
    "local": Scale(
        images=500,
        slow_images=200,
        images_large=300,
        curve_images=100,
        slow=_DIFFUSION | _ONE_BY_ONE,
        width=32,
        init="clean",
        repeats=1,
        repeats_large=1,
    ),
    # The paper's size (5.1 and appendix B.1); needs an accelerator.
    "full": Scale(
        images=None,
        slow_images=500,
        images_large=None,
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
    "bdmae": 13,
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
    "teco": 10,
    "bbcal": 10,
    "diffpure-ddpm": 0.1,
    "diffpure-sde": 0.1,
    "zip": 0.1,
    "sampdetox": 0.1,
}
"""Approximate images per second on two cores, for estimates without measurements. Defenses not listed here: 300."""


def experiment(name: str) -> Experiment:
    """Return the table or figure of this name. Raises UnknownNameError, which lists the known names."""
    if name not in EXPERIMENTS:
        raise UnknownNameError("table or figure", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def scale_of(name: str) -> Scale:
    """Return the scale of this name. Raises UnknownNameError, which lists the known names."""
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
    """Return the cells of a table or figure at a scale; pictures have none. Other arguments: see ``expand``.

    Points of curves use fewer images than cells of tables, and share cached restorations.
    """
    if isinstance(chosen, Curves):
        scale = dataclasses.replace(scale, images=scale.curve_images, shares_restorations=True)
    elif scale.images is None and isinstance(chosen, Table):
        scale = dataclasses.replace(scale, images=chosen.most_images)
    return expand(chosen.entries(scale.most_cases), scale, repeats=repeats, restorer=restorer, diffusion=diffusion)


def victims_of(chosen: Experiment, scale: Scale) -> list[VictimConfig]:
    """Return the victims of a figure of pictures. Tables and curves give none, because their cells name them."""
    if not isinstance(chosen, Pictures):
        return []
    return [Cell(case=case, variant=chosen.variants[0], scale=scale).victim for case in chosen.cases]


def estimated_seconds(cells: Sequence[Cell], measured: Mapping[str, float] | None = None) -> float:
    """Return the estimated seconds of one core for the cells, without the training of victims.

    measured: core-seconds per image by defense, from ``measured_speeds``. For other defenses ``SPEEDS`` is used.
    """

    def seconds(cell: Cell) -> float:
        parts = 1 if cell.case.attack is None else 2
        images = parts * (cell.count or dataset_spec(cell.case.dataset).test_count)
        alone = images * (measured or {}).get(cell.variant.defense, 2 / SPEEDS.get(cell.variant.defense, 300))
        return alone / _SHARED if cell.scale.shares_restorations else alone

    return sum(seconds(cell) for cell in cells)


def measured_speeds(records: Iterable[Record | DetectionRecord], environment: Environment) -> dict[str, float]:
    """Return mean core-seconds per image, by defense or detector, over the records from the hardware ``environment``.

    Core-seconds are seconds times threads, as if all threads were busy. Records with changed settings (in brackets
    after the name) count for the name without brackets.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        made_on = record.environment
        if isinstance(record, Record) and record.cost.shared_restorations:
            continue
        if (made_on.device, made_on.accelerator) == (environment.device, environment.accelerator):
            defense = record.defense.name if isinstance(record, Record) else record.detector
            images = record.clean_images + record.triggered_images
            seconds = record.cost.seconds if isinstance(record, Record) else record.seconds
            found.setdefault(defense.partition("[")[0], []).append(seconds * made_on.threads / images)
    return {name: sum(values) / len(values) for name, values in found.items()}


_SHARED = 3
"""Factor by which shared restorations make a point of a curve cheaper. Measured: 62 points of one victim took about a
quarter of the time."""
