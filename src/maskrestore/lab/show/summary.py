"""From records to the numbers of a table: means over repeats with 95 % intervals. All computation happens here."""

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
"""Fields of ``Metrics`` in the order of all tables."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a defense took for an image."""

    queries: float
    passes: float | None
    """Generator passes; ``None`` without a generator, or if a record lacks them."""
    seconds: float
    """On the hardware that most of the records were made on, like the fields below."""
    peak_memory: int | None
    """Bytes, the lowest of the records that have it: each includes what the process still held of earlier work."""
    hardware: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row in a column."""

    rates: dict[str, Estimate | None]
    """By the names in ``RATES``; ``None`` for a rate that does not exist, such as ASR without an attack."""
    cases: int
    """Cases that it is the mean of."""
    wanted: int
    """Cases that it should be the mean of."""
    images: int
    """Test images of all its records, clean and triggered."""
    variants: tuple[Variant, ...]
    """The settings that were chosen, one for each case."""


Records = Mapping[tuple[Case, Variant, int], Record]
"""Records by case, variant and repeat."""


def read_cells(cells: Sequence[Cell], folders: Sequence[Path]) -> dict[tuple[Case, Variant, int], Record]:
    """The records of those cells with a defense that have one, each from the first folder that has it.

    Raises DataError if a file is broken.
    """
    files = [ResultsFolder(folder).cells for folder in folders]
    return find_records(cells, files)


def find_records(cells: Sequence[Cell], files: Sequence[RecordFile[T]]) -> dict[tuple[Case, Variant, int], T]:
    """The records of cells in the first file that has them, by case, variant and repeat."""
    found = {(cell.case, cell.variant, cell.repeat): _first(cell.name, files) for cell in cells}
    return {key: record for key, record in found.items() if record is not None}


def _first(name: str, files: Sequence[RecordFile[T]]) -> T | None:
    return next((record for file in files if (record := file.get(name)) is not None), None)


def summarise(row: Row, cases: Sequence[Case], records: Records) -> Summary | None:
    """The rates of a row over cases; ``None`` without any record.

    A repeat counts when it has a record of every case that any repeat has. Where the row has several variants, each
    case takes its best one.
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
    """The variant with the best mean of CA and BA over the repeats; ``None`` without any record."""

    def score(variant: Variant) -> float:
        after = [record.after for (c, v, _), record in records.items() if (c, v) == (case, variant)]
        return mean([mean([rate.value for rate in (one.ca, one.ba) if rate is not None]) for one in after])

    measured = {(c, v) for c, v, _ in records}
    known = [variant for variant in variants if (case, variant) in measured]
    return max(known, key=score) if known else None


def costs_of(records: Sequence[Record]) -> Costs:
    """Means over records of one defense; the lowest peak of memory. Raises ValueError without any record."""
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
    """What a record was made on: the accelerator, else the processor with its threads."""
    return environment.accelerator or f"{environment.device}, {environment.threads} thread(s)"


def _rate(rows: Sequence[Sequence[Record]], name: str) -> Estimate | None:
    by_repeat = [[getattr(record.after, name) for record in row] for row in rows]
    return None if any(rate is None for rates in by_repeat for rate in rates) else estimate(by_repeat)
