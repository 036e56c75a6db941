"""A report as one HTML file: pictures and styles inside, no script, no address to anything outside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from maskrestore.errors import ConfigError
from maskrestore.reporting.entries import Column, Evidence, ReportEntry, class_label, columns_for, printable
from maskrestore.reporting.pictures import data_uri, viridis_css

__all__ = ["Metric", "ReportSummary", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A rate before and after the defense, for example clean accuracy."""

    name: str
    """A short name such as "CA"."""
    meaning: str
    """What it counts, in a few words."""
    before: float
    """In [0, 1], without the defense."""
    after: float
    """In [0, 1], with the defense."""
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    higher_is_better: bool = True
    images: int | None = None
    """How many images it was measured on."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What stands at the top of a report; everything that is not counted from its entries."""

    title: str = "maskrestore report"
    description: str = ""
    metrics: Sequence[Metric] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    """Shown as they are: keep secrets out."""
    key_fingerprint: str | None = None
    """The fingerprint of the operator's key, never the key."""
    images_per_second: float | None = None
    seconds: float | None = None


_VERDICTS: dict[str, tuple[str, str, str]] = {  # verdict: (sign, text, tone)
    "recovered": ("✓", "recovered", "good"),
    "kept": ("✓", "correct throughout", "calm"),
    "lost": ("✗", "was correct, now wrong", "bad"),
    "wrong": ("✗", "wrong before and after", "bad"),
    "changed": ("↻", "label changed", "note"),
    "same": ("=", "label unchanged", "calm"),
}


def write_report(
    out_dir: Path | str,
    entries: Iterable[ReportEntry],
    summary: ReportSummary | None = None,
    *,
    class_names: Sequence[str] | None = None,
    errors: Iterable[tuple[str, str]] = (),
    max_detailed: int = 100,
    max_listed: int = 5000,
    evidence_of: Callable[[str], Evidence | None] | None = None,
) -> Path:
    """Write ``report.html`` into a folder, which is created if need be, and return its path.

    Args:
        out_dir: the folder.
        entries: one per image, in the order of the report. They and the errors may be generators of any length:
            what is kept is bounded by the two caps.
        summary: title, rates, settings and speed.
        class_names: names of the labels, where known.
        errors: file name and reason of each image that could not be processed.
        max_detailed: entries that are shown with pictures, changed labels first; the others are listed.
        max_listed: rows in the table of entries without pictures, changed labels first, and in that of errors;
            a note counts those beyond it.
        evidence_of: from the name of an entry without pictures to its pictures, if there are any. It is asked
            only for entries that are to be shown with pictures.

    Raises:
        ConfigError: if a cap is negative.
    """
    for name, value in (("max_detailed", max_detailed), ("max_listed", max_listed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; expected zero or more")
    totals = _Totals()
    shown, listed = _choose(totals.counted(entries), max_detailed, max_listed, evidence_of)
    columns = columns_for(shown)
    failures = iter(errors)
    page = _template().render(
        summary=summary or ReportSummary(),
        facts=_facts(totals, summary or ReportSummary()),
        verdicts=_verdict_counts(totals),
        columns=columns,
        gradient=Markup(viridis_css()),
        cards=[_card(entry, columns, class_names) for entry in shown],
        rows=[_texts(entry, class_names) for entry in listed],
        total=totals.images,
        errors=[(printable(name), printable(reason)) for name, reason in islice(failures, max_listed)],
        more_errors=sum(1 for _ in failures),
        has_truth=totals.has_truth,
    )
    path = Path(out_dir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".html.part")
    draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(draft, path)  # a reader never sees half a report
    return path


@dataclass
class _Totals:
    """What is counted over all entries, shown or not."""

    images: int = 0
    changed: int = 0
    has_truth: bool = False
    verdicts: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    """Images whose queries are known."""
    queries: int = 0
    most_queries: int = 0

    def counted(self, entries: Iterable[ReportEntry]) -> Iterator[ReportEntry]:
        """The same entries, counted as they pass."""
        for entry in entries:
            self.images += 1
            self.changed += entry.changed
            self.has_truth |= entry.true_label is not None
            self.verdicts[_verdict(entry)] += 1
            if entry.queries is not None:
                self.asked += 1
                self.queries += entry.queries
                self.most_queries = max(self.most_queries, entry.queries)
            yield entry


def _choose(
    entries: Iterable[ReportEntry],
    max_detailed: int,
    max_listed: int,
    evidence_of: Callable[[str], Evidence | None] | None,
) -> tuple[list[ReportEntry], list[ReportEntry]]:
    """Return the entries to show with pictures and those to list, both in their order."""
    # By whether the label changed, the first entries by their position: more than enough for both.
    candidates: dict[bool, dict[int, ReportEntry]] = {True: {}, False: {}}
    rows: dict[bool, dict[int, ReportEntry]] = {True: {}, False: {}}
    for position, entry in enumerate(entries):
        if (entry.evidence or evidence_of) and len(candidates[entry.changed]) < max_detailed:
            candidates[entry.changed][position] = entry
        if len(rows[entry.changed]) < max_detailed + max_listed:
            rows[entry.changed][position] = replace(entry, evidence=None)
    shown = {}
    for position, entry in [*candidates[True].items(), *candidates[False].items()][:max_detailed]:
        evidence = entry.evidence or (evidence_of(entry.name) if evidence_of else None)
        if evidence is not None:
            shown[position] = replace(entry, evidence=evidence)
    others = {position: entry for group in rows.values() for position, entry in group.items() if position not in shown}
    listed = dict(list(others.items())[:max_listed])
    return [shown[position] for position in sorted(shown)], [listed[position] for position in sorted(listed)]


def _verdict(entry: ReportEntry) -> str:
    if entry.true_label is None:
        return "changed" if entry.changed else "same"
    right_before, right_after = entry.original_label == entry.true_label, entry.label == entry.true_label
    return {(True, True): "kept", (False, True): "recovered", (True, False): "lost", (False, False): "wrong"}[
        right_before, right_after
    ]


def _verdict_counts(totals: _Totals) -> list[dict[str, Any]]:
    return [
        {"key": key, "sign": sign, "text": text, "tone": tone, "count": totals.verdicts[key]}
        for key, (sign, text, tone) in _VERDICTS.items()
        if totals.verdicts[key]
    ]


def _texts(entry: ReportEntry, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return everything that is said about an entry in words."""
    verdict = _verdict(entry)
    sign, text, tone = _VERDICTS[verdict]
    return {
        "name": printable(entry.name),
        "note": printable(entry.note),
        "before": class_label(entry.original_label, class_names),
        "after": class_label(entry.label, class_names),
        "truth": None if entry.true_label is None else class_label(entry.true_label, class_names),
        "changed": entry.changed,
        "queries": entry.queries,
        "restored": None if entry.restored is None else f"{100 * entry.restored:.1f} %",
        **{"verdict": verdict, "sign": sign, "verdict_text": text, "tone": tone},
    }


def _card(entry: ReportEntry, columns: Sequence[Column], class_names: Sequence[str] | None) -> dict[str, Any]:
    assert entry.evidence is not None
    height, width = entry.evidence.size
    tiles = []
    for column in columns:
        drawn = column.draw(entry.evidence)
        source, caption = (data_uri(drawn[0]), drawn[1]) if drawn else (None, "not available")
        coarse = drawn is not None and max(drawn[0].shape[:2]) < 128  # show single pixels instead of a blur
        tiles.append({"column": column, "source": source, "caption": caption, "coarse": coarse})
    return {**_texts(entry, class_names), "tiles": tiles, "height": height, "width": width}


def _facts(totals: _Totals, summary: ReportSummary) -> list[tuple[str, str]]:
    """Return the figures under the title as pairs of a name and a value."""
    facts = [("Images", f"{totals.images:,}"), ("Labels changed", f"{totals.changed:,}")]
    if totals.asked:
        mean = totals.queries / totals.asked
        facts.append(("Queries per image", f"{mean:.1f} (at most {totals.most_queries})"))
    if summary.images_per_second is not None:
        facts.append(("Images per second", f"{summary.images_per_second:.1f}"))
    if summary.seconds is not None:
        facts.append(("Time", f"{summary.seconds:.1f} s"))
    if summary.key_fingerprint is not None:
        facts.append(("Key fingerprint", printable(summary.key_fingerprint)))
    return facts


def _template() -> Any:
    package = resources.files("maskrestore.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = Markup(package.joinpath("report.css").read_text("utf-8"))
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    return environment.from_string(package.joinpath("report.html.j2").read_text("utf-8"))
