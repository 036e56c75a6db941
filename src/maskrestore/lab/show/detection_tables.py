"""Tables of detectors: AUROC over attacks and repeats, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.paper.cells import Case, Cell, Variant
from maskrestore.lab.paper.layouts import Column, Row
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.show.sheets import Sheet
from maskrestore.lab.show.summary import find_records, hardware_of
from maskrestore.statistics import Estimate, estimate

__all__ = ["DetectionLine", "auroc_sheet", "detection_cost_sheet", "detection_lines", "read_detection_cells"]

Detections = Mapping[tuple[Case, Variant, int], DetectionRecord]
"""Records by case, variant and repeat."""


@dataclass(frozen=True, kw_only=True)
class DetectionLine:
    """The results of a detector in a column: means over its cases and over the complete repeats."""

    detector: str
    column: str
    auroc: Estimate | None
    """``None`` without any record."""
    cases: int
    """Number of cases with records."""
    wanted: int
    """Number of cases of the column."""
    records: tuple[DetectionRecord, ...]

    @property
    def images(self) -> int:
        """Number of test images of all records, clean and triggered."""
        return sum(record.clean_images + record.triggered_images for record in self.records)

    @property
    def queries(self) -> float:
        """Mean number of queries per image."""
        return sum(record.queries_mean for record in self.records) / len(self.records)

    @property
    def seconds(self) -> float:
        """Mean seconds per image."""
        return sum(record.seconds for record in self.records) / self.images

    @property
    def peak_mib(self) -> str:
        """The lowest peak memory of the records in MiB, or "". The lowest, because each includes earlier work."""
        known = [record.peak_memory for record in self.records if record.peak_memory is not None]
        return f"{min(known) / 2**20:.0f}" if known else ""

    @property
    def hardware(self) -> str:
        """The hardware of the records."""
        return "; ".join(dict.fromkeys(hardware_of(record.environment) for record in self.records))

    def long(self) -> dict[str, str]:
        """Return a row of the CSV file."""
        assert self.auroc is not None
        return {
            "detector": self.detector,
            "column": self.column,
            **{end: f"{getattr(self.auroc, end):.4f}" for end in ("mean", "low", "high")},
            "repeats": str(self.auroc.repeats),
            "attacks": str(self.cases),
            "images": str(self.images),
            "queries": f"{self.queries:.1f}",
            "seconds": f"{self.seconds:.4f}",
            "peak_mib": self.peak_mib,
            "hardware": self.hardware,
        }


def read_detection_cells(cells: Sequence[Cell], folders: Sequence[Path]) -> Detections:
    """Return the records of the cells with a detector. Raises DataError if a file is broken."""
    return find_records(cells, [ResultsFolder(folder).detections for folder in folders])


def detection_lines(
    rows: Sequence[Row], columns: Sequence[tuple[Column, tuple[Case, ...]]], records: Detections
) -> list[DetectionLine]:
    """Return a line for each row and column. columns: each with its cases."""
    return [_line(row, column, cases, records) for row in rows for column, cases in columns]


def _line(row: Row, column: Column, cases: Sequence[Case], records: Detections) -> DetectionLine:
    (variant,) = row.variants
    found = [case for case in cases if any((c, v) == (case, variant) for c, v, _ in records)]
    repeats = sorted({repeat for case, one, repeat in records if one == variant and case in found})
    whole = [[records[case, variant, r] for case in found] for r in repeats if _complete(found, variant, r, records)]
    return DetectionLine(
        detector=row.label,
        column=column.title,
        auroc=estimate([[record.auroc for record in row] for row in whole]) if whole else None,
        cases=len(found),
        wanted=len(cases),
        records=tuple(record for row in whole for record in row),
    )


def _complete(cases: Sequence[Case], variant: Variant, repeat: int, records: Detections) -> bool:
    return all((case, variant, repeat) in records for case in cases)


def auroc_sheet(lines: Sequence[DetectionLine]) -> Sheet:
    """Return AUROC with intervals: a row for each measured attack, a column for each detector."""
    detectors = dict.fromkeys(line.detector for line in lines)
    found = {(line.detector, line.column): line for line in lines}
    attacks = dict.fromkeys(line.column for line in lines if line.auroc is not None)
    body = [(attack, *(_auroc(found[detector, attack]) for detector in detectors)) for attack in attacks]
    heads = ("AUROC [95 %]", *detectors)
    return Sheet(title="AUROC", heads=heads, rows=tuple(body))


def _auroc(line: DetectionLine) -> str:
    if line.auroc is None:
        return "–"
    text = f"{line.auroc.mean:.3f} [{line.auroc.low:.3f}, {line.auroc.high:.3f}]"
    text += f", {line.cases} of {line.wanted} attacks" if line.cases < line.wanted else ""
    return text + (f", {line.auroc.repeats} repeats" if line.auroc.repeats > 1 else "")


def detection_cost_sheet(lines: Sequence[DetectionLine]) -> Sheet:
    """Return queries, seconds and memory of each detector over all of its records. Detectors have no generator."""
    body = []
    for detector in dict.fromkeys(line.detector for line in lines if line.records):
        own = [line for line in lines if line.detector == detector]
        whole = replace(own[0], records=tuple(record for line in own for record in line.records))
        costs = (f"{whole.queries:.1f}", f"{whole.seconds:.4f}", whole.peak_mib or "–")
        body.append((detector, *costs, str(whole.images), whole.hardware))
    heads = ("detector", "queries/image", "s/image", "lowest peak memory, MiB", "images", "hardware")
    return Sheet(title="Cost", heads=heads, rows=tuple(body))
