"""A report as one HTML file: pictures and styles inside, no script, no address to anything outside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from maskrestore.errors import ConfigError
from maskrestore.reporting.entries import Column, ReportEntry, class_label, columns_for, printable
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
) -> Path:
    """Write ``report.html`` into a folder, which is created if need be, and return its path.

    Args:
        out_dir: the folder.
        entries: one per image, in the order of the report. A generator is fine: pictures are kept of at most
            ``2 * max_detailed`` entries at a time.
        summary: title, rates, settings and speed.
        class_names: names of the labels, where known.
        errors: file name and reason of each image that could not be processed.
        max_detailed: entries that are shown with pictures, changed labels first; the others are listed.
        max_listed: rows in the table of entries without pictures; a note counts those beyond it.

    Raises:
        ConfigError: if a cap is negative.
    """
    for name, value in (("max_detailed", max_detailed), ("max_listed", max_listed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; expected zero or more")
    everything, detailed = _collect(entries, max_detailed)
    listed = [entry for i, entry in enumerate(everything) if i not in detailed]
    shown = [detailed[i] for i in sorted(detailed)]
    columns = columns_for(shown)
    page = _template().render(
        summary=summary or ReportSummary(),
        facts=_facts(everything, summary or ReportSummary()),
        verdicts=_verdict_counts(everything),
        columns=columns,
        gradient=Markup(viridis_css()),
        cards=[_card(entry, columns, class_names) for entry in shown],
        rows=[_texts(entry, class_names) for entry in listed[:max_listed]],
        total=len(everything),
        unlisted=max(0, len(listed) - max_listed),
        errors=[(printable(name), printable(reason)) for name, reason in errors],
        has_truth=any(entry.true_label is not None for entry in everything),
    )
    path = Path(out_dir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".html.part")
    draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(draft, path)  # a reader never sees half a report
    return path


def _collect(entries: Iterable[ReportEntry], limit: int) -> tuple[list[ReportEntry], dict[int, ReportEntry]]:
    """Return all entries without their pictures, and those to show in detail by their position."""
    everything: list[ReportEntry] = []
    kept: dict[bool, dict[int, ReportEntry]] = {True: {}, False: {}}  # by whether the label changed
    for position, entry in enumerate(entries):
        everything.append(replace(entry, evidence=None))
        group = kept[entry.changed]
        if entry.evidence is not None and len(group) < limit:
            group[position] = entry
    first = [*kept[True].items(), *kept[False].items()][:limit]
    return everything, dict(first)


def _verdict(entry: ReportEntry) -> str:
    if entry.true_label is None:
        return "changed" if entry.changed else "same"
    right_before, right_after = entry.original_label == entry.true_label, entry.label == entry.true_label
    return {(True, True): "kept", (False, True): "recovered", (True, False): "lost", (False, False): "wrong"}[
        right_before, right_after
    ]


def _verdict_counts(entries: Sequence[ReportEntry]) -> list[dict[str, Any]]:
    counts = Counter(_verdict(entry) for entry in entries)
    return [
        {"key": key, "sign": sign, "text": text, "tone": tone, "count": counts[key]}
        for key, (sign, text, tone) in _VERDICTS.items()
        if counts[key]
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


def _facts(entries: Sequence[ReportEntry], summary: ReportSummary) -> list[tuple[str, str]]:
    """Return the figures under the title as pairs of a name and a value."""
    changed = sum(entry.changed for entry in entries)
    queries = [entry.queries for entry in entries if entry.queries is not None]
    facts = [("Images", f"{len(entries):,}"), ("Labels changed", f"{changed:,}")]
    if queries:
        facts.append(("Queries per image", f"{sum(queries) / len(queries):.1f} (at most {max(queries)})"))
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
