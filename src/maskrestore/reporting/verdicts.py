"""What became of the images of a report: their results, counts of them, and which images to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from maskrestore.reporting.entries import Evidence, ReportEntry

__all__ = ["VERDICTS", "Totals", "choose", "verdict_of"]

VERDICTS: dict[str, tuple[str, str, str]] = {  # verdict: (sign, text, tone)
    "wrong": ("✗", "wrong before and after", "bad"),
    "lost": ("✗", "was correct, now wrong", "bad"),
    "recovered": ("✓", "was wrong, now correct", "good"),
    "changed": ("↻", "label changed", "note"),
    "kept": ("✓", "correct before and after", "calm"),
    "same": ("=", "label unchanged", "calm"),
    "only": ("·", "label of the restored image", "calm"),
}
"""In the order of the report: failures come first, because a reader looks for them."""


@dataclass
class Totals:
    """Counts over all entries, whether they are shown or not."""

    images: int = 0
    compared: int = 0
    """Images whose original label is known."""
    changed: int = 0
    has_truth: bool = False
    rated: int = 0
    """Images whose suspicion is known."""
    doubtful: int = 0
    abstained: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    """Images whose queries are known."""
    queries: int = 0
    most_queries: int = 0

    def counted(self, entries: Iterable[ReportEntry]) -> Iterator[ReportEntry]:
        """Yield the same entries and count them."""
        for entry in entries:
            self.images += 1
            self.compared += entry.original_label is not None
            self.changed += entry.changed
            self.has_truth |= entry.true_label is not None
            self.rated += entry.suspicion is not None
            self.doubtful += entry.doubtful
            self.abstained += entry.abstained
            self.verdicts[verdict_of(entry)] += 1
            if entry.queries is not None:
                self.asked += 1
                self.queries += entry.queries
                self.most_queries = max(self.most_queries, entry.queries)
            yield entry


def choose(
    entries: Iterable[ReportEntry],
    max_detailed: int,
    max_listed: int,
    evidence_of: Callable[[str], Evidence | None] | None,
) -> tuple[list[ReportEntry], list[ReportEntry]]:
    """Return the entries to show with pictures and those to list, both sorted by result, doubt and position."""
    # The first entries of each result, by position, those in doubt and the others: never fewer than are needed.
    kinds = [(verdict, doubtful) for verdict in VERDICTS for doubtful in (True, False)]
    candidates: dict[tuple[str, bool], dict[int, ReportEntry]] = {kind: {} for kind in kinds}
    rows: dict[tuple[str, bool], dict[int, ReportEntry]] = {kind: {} for kind in kinds}
    for position, entry in enumerate(entries):
        kind = verdict_of(entry), entry.doubtful
        if (entry.evidence or evidence_of) and len(candidates[kind]) < max_detailed:
            candidates[kind][position] = entry
        if len(rows[kind]) < max_detailed + max_listed:
            rows[kind][position] = replace(entry, evidence=None)
    groups = [candidates[verdict, True] | candidates[verdict, False] for verdict in VERDICTS]
    shown: dict[int, ReportEntry] = {}
    for position, entry in _share(groups, max_detailed):
        evidence = entry.evidence or (evidence_of(entry.name) if evidence_of else None)
        if evidence is not None:
            shown[position] = replace(entry, evidence=evidence)
    others = (entry for group in rows.values() for position, entry in group.items() if position not in shown)
    return list(shown.values()), list(islice(others, max_listed))


def _share(groups: Iterable[dict[int, ReportEntry]], count: int) -> list[tuple[int, ReportEntry]]:
    """Choose ``count`` entries: a sixth of them from each group that has so many, the others from the first groups."""
    lists = [list(group.items()) for group in groups]
    taken = [min(len(group), count // (len(lists) - 1)) for group in lists]
    taken[-1] = 0  # "only": a job with a single query has no other result
    for index, group in enumerate(lists):
        taken[index] += min(len(group) - taken[index], count - sum(taken))
    return [one for group, number in zip(lists, taken, strict=True) for one in group[:number]]


def verdict_of(entry: ReportEntry) -> str:
    """A key of :data:`VERDICTS`: what became of an image."""
    if entry.original_label is None:
        return "only"
    if entry.true_label is None:
        return "changed" if entry.changed else "same"
    right_before, right_after = entry.original_label == entry.true_label, entry.label == entry.true_label
    return {(True, True): "kept", (False, True): "recovered", (True, False): "lost", (False, False): "wrong"}[
        right_before, right_after
    ]
