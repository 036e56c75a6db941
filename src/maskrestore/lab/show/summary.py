"""From records to the numbers of a table: means with 95 % intervals over repeats. Later steps compute nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from maskrestore.lab.measure.record_files import Named, RecordFile
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.cells import Case, Cell, Variant
from maskrestore.lab.paper.layouts import Row
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.runtime.environment import Environment
from maskrestore.statistics import Estimate, estimate, mean

__all__ = [
    "Costs",
    "Summary",
    "best_variant",
    "costs_of",
    "find_records",
    "hardware_of",
    "read_cells",
    "summarise",
]

T = TypeVar("T", bound=Named)

RATES = ("ca", "ba", "asr")
"""Fields of ``Metrics``, in the order of all tables."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The mean costs of a defense per image."""

    queries: float
    passes: float | None
    """Passes of its generator; ``None`` without one, or when a record does not have them."""
    seconds: float
    """On the hardware of most records."""
    peak_memory: int | None
    """Lowest peak in bytes, on the hardware of most records. The lowest, because a peak includes earlier work."""
    hardware: str
    """The hardware of most records."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a row in a column."""

    rates: dict[str, Estimate | None]
    """By the names in ``RATES``; ``None`` for a rate that does not exist, such as ASR without an attack."""
    cases: int
    """Number of cases with records."""
    wanted: int
    """Number of cases of the column."""
    images: int
    """Number of test images of all records, clean and triggered."""
    variants: tuple[Variant, ...]
    """The variant used for each case."""


Records = Mapping[tuple[Case, Variant, int], Record]
"""Records by case, variant and repeat."""


def read_cells(cells: Sequence[Cell], folders: Sequence[Path]) -> dict[tuple[Case, Variant, int], Record]:
    """Return the records of the cells with a defense, each from the first folder that has it.

    Raises DataError if a file is broken.
    """
    files = [ResultsFolder(folder).cells for folder in folders]
    return find_records(cells, files)


def find_records(cells: Sequence[Cell], files: Sequence[RecordFile[T]]) -> dict[tuple[Case, Variant, int], T]:
    """Return the records of cells, each from the first file that has it, by case, variant and repeat."""
    found = {(cell.case, cell.variant, cell.repeat): _first(cell.name, files) for cell in cells}
    return {key: record for key, record in found.items() if record is not None}


def _first(name: str, files: Sequence[RecordFile[T]]) -> T | None:
    return next((record for file in files if (record := file.get(name)) is not None), None)


def summarise(row: Row, cases: Sequence[Case], records: Records) -> Summary | None:
    """Return the rates of a row over cases, or ``None`` without any record.

    A repeat counts if it has a record of every case that any repeat has. If the row has several variants, the best one
    is used for each case.
    """
    chosen = {case: best_variant(row.variants, case, records) for case in cases}
    found = {case: variant for case, variant in chosen.items() if variant is not None}
    repeats = sorted({repeat for case, variant, repeat in records if found.get(case) == variant})
    whole = [r for r in repeats if all((case, variant, r) in records for case, variant in found.items())]
    if not whole:
        return None
    rows = [[records[case, variant, repeat] for case, variant in found.items()] for repeat in whole]
    return Summary(
        rates={name: _rate(rows, name) for name in RATES},
        cases=len(found),
        wanted=len(cases),
        images=sum(record.clean_images + record.triggered_images for row in rows for record in row),
        variants=tuple(found.values()),
    )


def best_variant(variants: Sequence[Variant], case: Case, records: Records) -> Variant | None:
    """Return the variant with the best mean of CA and BA over the repeats, or ``None`` without any record."""

    def score(variant: Variant) -> float:
        after = [record.after for (c, v, _), record in records.items() if (c, v) == (case, variant)]
        return mean([mean([rate.value for rate in (one.ca, one.ba) if rate is not None]) for one in after])

    measured = {(c, v) for c, v, _ in records}
    known = [variant for variant in variants if (case, variant) in measured]
    return max(known, key=score) if known else None


def costs_of(records: Sequence[Record]) -> Costs:
    """Return the costs of a defense, from its records. Raises ValueError without any record."""
    costs = [record.cost for record in records]
    passes = [cost.passes_mean for cost in costs if cost.passes_mean is not None]
    machines = Counter(hardware_of(record.environment) for record in records)
    hardware = max(machines, key=lambda machine: machines[machine])
    there = [record.cost for record in records if hardware_of(record.environment) == hardware]
    return Costs(
        queries=mean([cost.queries_mean for cost in costs]),
        passes=mean(passes) if len(passes) == len(costs) else None,
        seconds=mean([1 / cost.images_per_second for cost in there]),
        peak_memory=min((cost.peak_memory for cost in there if cost.peak_memory is not None), default=None),
        hardware=hardware,
    )


def hardware_of(environment: Environment) -> str:
    """Return the hardware of a record: the accelerator, else the processor and the number of threads."""
    return environment.accelerator or f"{environment.device}, {environment.threads} thread(s)"


def _rate(rows: Sequence[Sequence[Record]], name: str) -> Estimate | None:
    by_repeat = [[getattr(record.after, name) for record in row] for row in rows]
    return None if any(rate is None for rates in by_repeat for rate in rates) else estimate(by_repeat)
