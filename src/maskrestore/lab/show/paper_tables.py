"""Tables of the catalogue: from records to sheets and a long CSV, with the paper's numbers for comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskrestore.lab.paper.cells import Case, Cell
from maskrestore.lab.paper.layouts import Column, Row, Table
from maskrestore.lab.paper.published import paper_rates
from maskrestore.lab.show.detection_tables import (
    auroc_sheet,
    detection_cost_sheet,
    detection_lines,
    read_detection_cells,
)
from maskrestore.lab.show.sheets import Sheet, bold
from maskrestore.lab.show.summary import RATES, Costs, Records, costs_of, read_cells, summarise
from maskrestore.lab.show.table_notes import (
    Summaries,
    Verdict,
    complete_scores,
    cross_triggers,
    mean_score,
    records_of_row,
    retrained,
    row_means,
    verdict,
)
from maskrestore.statistics import Estimate

__all__ = ["FilledTable", "fill_table"]

_TIE = 0.005
"""Rows whose mean of CA and BA is within half a point of the best are bold as well."""

_HEADS = ("CA", "BA", "ASR")


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """A table with the numbers of its records, for all output formats."""

    name: str
    title: str
    notes: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    long: tuple[dict[str, str], ...]
    """The long form: a row for each rate."""
    verdict: Verdict | None = None
    """The comparison of the best row of this method with the best of the others."""

    def markdown(self) -> str:
        """Return a page with all sheets."""
        notes = "".join(f"{note}\n\n" for note in self.notes)
        return f"# {self.title}\n\n{notes}" + "\n".join(sheet.markdown(level=2) for sheet in self.sheets)

    def latex(self) -> str:
        """Return all sheets as LaTeX tables."""
        return "\n".join(sheet.latex(f"{self.title}: {sheet.title}") for sheet in self.sheets)

    def csv(self) -> str:
        """Return the long form as CSV."""
        text = io.StringIO()
        heads = list(self.long[0]) if self.long else []
        writer = csv.DictWriter(text, heads, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.long)
        return text.getvalue()


def fill_table(name: str, table: Table, cells: Sequence[Cell], folders: Sequence[Path]) -> FilledTable:
    """Build a table from the records of ``cells`` in ``folders``. Raises DataError for an invalid record."""
    known = {cell.case for cell in cells}
    columns = [(column, tuple(case for case in column.cases if case in known)) for column in table.columns]
    if detections := read_detection_cells(cells, folders):
        lines = detection_lines(table.rows, columns, detections)
        long = tuple(line.long() for line in lines if line.auroc is not None)
        return _finished(name, table, columns, [auroc_sheet(lines), detection_cost_sheet(lines)], long)
    records = read_cells(cells, folders)
    summaries = {
        (row.label, column.title): summary
        for row in table.rows
        for column, cases in columns
        if (summary := summarise(row, cases, records)) is not None
    }
    rows = [row for row in table.rows if any((row.label, column.title) in summaries for column, _ in columns)]
    shown = [column for column, _ in columns if any((row.label, column.title) in summaries for row in rows)]
    if not rows:
        return _finished(name, table, columns, [], ())
    sheets = [_overview(name, rows, shown, summaries)]
    sheets += [_column_sheet(name, column, rows, summaries) for column in shown]
    sheets += [_cost_sheet(rows, records)]
    long = _long(name, rows, columns, summaries, records)
    compared = verdict(rows, shown, summaries)
    said = (cross_triggers(records), retrained(rows, records), compared.sentence() if compared else None)
    filled = _finished(name, table, columns, sheets, long, found=[text for text in said if text])
    return replace(filled, verdict=compared)


def _finished(
    name: str,
    table: Table,
    columns: Sequence[tuple[Column, tuple[Case, ...]]],
    sheets: Sequence[Sheet],
    long: tuple[dict[str, str], ...],
    *,
    found: Sequence[str] = (),
) -> FilledTable:
    """Add the standard notes. found: notes computed from the records."""
    notes = [*table.notes, *found]
    if table.unavailable:
        notes.append(f"Not measured, because the data are not available here: {', '.join(table.unavailable)}.")
    if not sheets and columns:
        notes.append(f"No records yet: run `maskrestore reproduce {name}`.")
    return FilledTable(name=name, title=table.title, notes=tuple(notes), sheets=tuple(sheets), long=long)


def _overview(name: str, rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> Sheet:
    """Return the mean of CA and BA of every row and column, and the mean of each row over the usual columns.

    The best of each column is bold; the paper's number is in brackets. Entries without all cases are not compared.
    """
    titles = [column.title for column in columns]
    whole = complete_scores(found)
    means = row_means(rows, columns, found)

    def marked(score: float, column: Sequence[float]) -> str:
        text = f"{100 * score:.1f}"
        return bold(text) if max(column) - score <= _TIE else text

    def text(row: Row, title: str) -> str:
        summary = found.get((row.label, title))
        if summary is None:
            return "–"
        theirs = paper_rates(name, row.paper, title)
        beside = "" if theirs is None or None in theirs[:2] else f" ({sum(map(float, theirs[:2])) / 2:.1f})"  # type: ignore[arg-type]
        if (row.label, title) not in whole:
            return f"{100 * mean_score(summary):.1f}, {summary.cases} of {summary.wanted} attacks" + beside
        return (
            marked(whole[row.label, title], [score for (_, other), score in whole.items() if other == title]) + beside
        )

    several = len(columns) > 1
    body = [
        (
            row.label,
            *((marked(means[row.label], list(means.values())) if row.label in means else "–",) if several else ()),
            *(text(row, title) for title in titles),
        )
        for row in rows
    ]
    heads = ("defense", *(("mean",) if several else ()), *titles)
    return Sheet(title="Mean of CA and BA in % (the paper's)", heads=heads, rows=tuple(body))


def _column_sheet(name: str, column: Column, rows: Sequence[Row], found: Summaries) -> Sheet:
    """Return CA, BA and ASR with intervals and the paper's numbers, for one column."""
    body: list[tuple[str, ...]] = []
    for row in rows:
        summary = found.get((row.label, column.title))
        theirs = paper_rates(name, row.paper, column.title)
        paper = "–" if theirs is None else " / ".join("–" if value is None else f"{value:.1f}" for value in theirs)
        if summary is None:
            body.append((row.label, "–", "–", "–", paper, "–", "–", "–"))
            continue
        repeats = max((one.repeats for one in summary.rates.values() if one is not None), default=0)
        cases = str(summary.cases) if summary.cases == summary.wanted else f"{summary.cases} of {summary.wanted}"
        body.append(
            (
                row.label,
                *(_interval(summary.rates[rate]) for rate in RATES),
                paper,
                cases,
                str(repeats),
                str(summary.images),
            )
        )
    heads = ("defense", *(f"{head} [95 %]" for head in _HEADS), "paper: CA / BA / ASR", "attacks", "repeats", "images")
    return Sheet(title=column.title, heads=heads, rows=tuple(body))


def _cost_sheet(rows: Sequence[Row], records: Records) -> Sheet:
    body = []
    for row in rows:
        costs = costs_of(records_of_row(row, {case for case, _, _ in records}, records))
        body.append((row.label, *(text or "–" for text in _costs(costs).values())))
    heads = ("defense", "queries/image", "generator passes/image", "s/image", "lowest peak memory, MiB", "hardware")
    return Sheet(title="Cost", heads=heads, rows=tuple(body))


def _costs(costs: Costs) -> dict[str, str]:
    """Return the costs as texts. Unknown costs are empty."""
    return {
        "queries": f"{costs.queries:.1f}",
        "passes": "" if costs.passes is None else f"{costs.passes:.1f}",
        "seconds": f"{costs.seconds:.4f}",
        "peak_mib": "" if costs.peak_memory is None else f"{costs.peak_memory / 2**20:.0f}",
        "hardware": costs.hardware,
    }


def _long(
    name: str,
    rows: Sequence[Row],
    columns: Sequence[tuple[Column, tuple[Case, ...]]],
    found: Summaries,
    records: Records,
) -> tuple[dict[str, str], ...]:
    lines = []
    for row in rows:
        for column, cases in columns:
            summary = found.get((row.label, column.title))
            if summary is None:
                continue
            theirs = paper_rates(name, row.paper, column.title) or (None, None, None)
            costs = _costs(costs_of(records_of_row(row, cases, records)))
            for position, rate in enumerate(RATES):
                value = summary.rates[rate]
                if value is not None:
                    lines.append(
                        {
                            "defense": row.label,
                            "column": column.title,
                            "rate": rate,
                            **{end: f"{100 * getattr(value, end):.2f}" for end in ("mean", "low", "high")},
                            "repeats": str(value.repeats),
                            "attacks": str(summary.cases),
                            "images": str(summary.images),
                            "paper": "" if theirs[position] is None else f"{theirs[position]}",
                            **costs,
                        }
                    )
    return tuple(lines)


def _interval(value: Estimate | None) -> str:
    return "–" if value is None else f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
