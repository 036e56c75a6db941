"""Notes above a table: sentences computed from its records, and the means that they compare."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.cells import Case
from maskrestore.lab.paper.layouts import Column, Row
from maskrestore.lab.show.summary import Records, Summary, best_variant

__all__ = [
    "Summaries",
    "Verdict",
    "complete_scores",
    "cross_triggers",
    "mean_score",
    "records_of_row",
    "retrained",
    "row_means",
    "verdict",
]

Summaries = dict[tuple[str, str], Summary]
"""Summaries by row label and column title."""


def cross_triggers(records: Records) -> str | None:
    """Return a sentence on the accuracy with triggers of other images, which should not change the label, or ``None``.

    Only victims of attacks whose trigger depends on the image have this accuracy.
    """
    rates = {
        case.label: f"{case.label} {100 * record.victim.cross_trigger:.1f} %"
        for (case, _, _), record in records.items()
        if record.victim.cross_trigger is not None
    }
    return f"Accuracy with the triggers of other images: {', '.join(rates.values())}." if rates else None


def retrained(rows: Sequence[Row], records: Records) -> str | None:
    """Return a sentence on the rows whose victims have other weights than those of most rows, or ``None``."""
    weights: dict[tuple[Case, int], Counter[str]] = defaultdict(Counter)
    for (case, _, repeat), record in records.items():
        weights[case, repeat][record.victim.weights] += 1
    usual = {counts.most_common(1)[0][0] for counts in weights.values()}
    cases = {case for case, _, _ in records}
    others = {
        row.label: count
        for row in rows
        if (count := sum(record.victim.weights not in usual for record in records_of_row(row, cases, records)))
    }
    if not others:
        return None
    named = ", ".join(f"{label} ({count})" for label, count in others.items())
    return f"Some victims were trained twice with the same recipe. Cells with other weights than most rows: {named}."


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The best row of this method and the best of the others, by the mean of CA and BA in percent."""

    ours: str
    others: str
    over: str
    """The columns of the means, if there are several columns."""
    reduced: str
    """The columns over which the rows are compared, if the other row lacks some."""

    def sentence(self) -> str:
        """Return a note for the table."""
        means = f"best of this method: {self.ours}; best of the others: {self.others}"
        return f"Mean of CA and BA, {self.over}{means}{self.reduced}."


def verdict(rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> Verdict | None:
    """Compare the best row of this method with the best of the others. Returns ``None`` if either is missing.

    A row that lacks some columns is compared over the columns it has. The best of the others is the row with the
    largest difference to our row.
    """
    measured = len(columns)
    columns = usual_columns(rows, columns, found)
    whole, means = complete_scores(found), row_means(rows, columns, found)
    ours = [row.label for row in rows if row.ours and row.label in means]
    if not ours:
        return None
    best = max(ours, key=lambda label: means[label])
    rivals = []
    for row in rows:
        titles = [column.title for column in columns if (row.label, column.title) in whole]
        if titles and not row.ours:
            theirs, own = (fmean(whole[label, title] for title in titles) for label in (row.label, best))
            rivals.append((theirs - own, theirs, own, row.label, titles))
    if not rivals:
        return None
    _, theirs, own, other, titles = max(rivals)
    whole_row = len(titles) == len(columns)
    over = f"over the {measured} measured columns, "
    if len(columns) < measured:
        over = f"over {' and '.join(column.title for column in columns)}, which at least half of the rows have, "
    return Verdict(
        ours=f"{100 * means[best]:.1f} ({best})",
        others=f"{100 * theirs:.1f} ({other})",
        over=over if measured > 1 else "",
        reduced="" if whole_row else f", over {', '.join(titles)} only, where this method has {100 * own:.1f}",
    )


def complete_scores(found: Summaries) -> dict[tuple[str, str], float]:
    """Return the mean of CA and BA by row and column, of entries with all cases."""
    return {key: mean_score(summary) for key, summary in found.items() if summary.cases == summary.wanted}


def usual_columns(rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> list[Column]:
    """Return the columns that at least half of the rows have, or all if there are none: means are taken over these.

    Else the first few rows of a new column would take the mean from all others.
    """
    whole = complete_scores(found)
    usual = [one for one in columns if 2 * sum((row.label, one.title) in whole for row in rows) >= len(rows)]
    return usual or list(columns)


def row_means(rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> dict[str, float]:
    """Return the mean over the usual columns, by label, of each row that has all of them."""
    whole, columns = complete_scores(found), usual_columns(rows, columns, found)
    scores = {row.label: [whole.get((row.label, column.title)) for column in columns] for row in rows}
    return {
        label: sum(known) / len(known)
        for label, values in scores.items()
        if len(known := [value for value in values if value is not None]) == len(columns)
    }


def mean_score(summary: Summary) -> float:
    """Return the mean of CA and BA, in [0, 1]."""
    values = [one.mean for one in (summary.rates["ca"], summary.rates["ba"]) if one is not None]
    return sum(values) / len(values)


def records_of_row(row: Row, cases: Iterable[Case], records: Records) -> list[Record]:
    """Return the records of a row's rates. If it has several variants, those of the best variant of each case."""
    best = {case: best_variant(row.variants, case, records) for case in cases}
    return [record for (case, variant, _), record in records.items() if case in best and variant == best[case]]
