"""The notes above a table that come from its records, and the means that they compare."""

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
"""By row and column."""


def cross_triggers(records: Records) -> str | None:
    """Accuracy of the victims of input-aware attacks on triggers of other images, which should have no effect."""
    rates = {
        case.label: f"{case.label} {100 * record.victim.cross_trigger:.1f} %"
        for (case, _, _), record in records.items()
        if record.victim.cross_trigger is not None
    }
    return f"Accuracy with the triggers of other images: {', '.join(rates.values())}." if rates else None


def retrained(rows: Sequence[Row], records: Records) -> str | None:
    """Which rows used victims with other weights than most rows."""
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
    return f"Some victims were trained twice by the same recipe. Cells with other weights than most rows: {named}."


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Our best row and the best of the others, by the mean of CA and BA in percent."""

    ours: str
    others: str
    over: str
    """What the means are over, if that is several columns."""
    reduced: str
    """Which columns the other row is compared over, if it lacks some."""

    def sentence(self) -> str:
        """As a note of the table."""
        means = f"ours at its best: {self.ours}; best of the others: {self.others}"
        return f"Mean of CA and BA, {self.over}{means}{self.reduced}."


def verdict(rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> Verdict | None:
    """Compare our best row with the best of the others; ``None`` where a side is missing.

    A row that lacks some columns is compared over the columns that it has. The best of the others is the one with the
    largest lead over ours, or the smallest gap.
    """
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
    return Verdict(
        ours=f"{100 * means[best]:.1f} ({best})",
        others=f"{100 * theirs:.1f} ({other})",
        over=f"over the {len(columns)} columns that were measured, " if len(columns) > 1 else "",
        reduced="" if whole_row else f", over {', '.join(titles)} alone, where ours has {100 * own:.1f}",
    )


def complete_scores(found: Summaries) -> dict[tuple[str, str], float]:
    """The mean of CA and BA by row and column, of those that lack no case."""
    return {key: mean_score(summary) for key, summary in found.items() if summary.cases == summary.wanted}


def row_means(rows: Sequence[Row], columns: Sequence[Column], found: Summaries) -> dict[str, float]:
    """The mean over the columns of each row that has all of them, by its label."""
    whole = complete_scores(found)
    scores = {row.label: [whole.get((row.label, column.title)) for column in columns] for row in rows}
    return {
        label: sum(known) / len(known)
        for label, values in scores.items()
        if len(known := [value for value in values if value is not None]) == len(columns)
    }


def mean_score(summary: Summary) -> float:
    """The mean of CA and BA."""
    values = [one.mean for one in (summary.rates["ca"], summary.rates["ba"]) if one is not None]
    return sum(values) / len(values)


def records_of_row(row: Row, cases: Iterable[Case], records: Records) -> list[Record]:
    """The records of a row that its rates come from: where it has several variants, those of each case's best."""
    best = {case: best_variant(row.variants, case, records) for case in cases}
    return [record for (case, variant, _), record in records.items() if case in best and variant == best[case]]
