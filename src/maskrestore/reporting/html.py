"""A report as one HTML file: pictures and styles inside, no script, no address to anything outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from maskrestore.errors import ConfigError
from maskrestore.reporting.columns import Column, columns_for
from maskrestore.reporting.entries import Evidence, ReportEntry
from maskrestore.reporting.names import class_label, printable
from maskrestore.reporting.pictures import data_uri, viridis_css
from maskrestore.reporting.verdicts import VERDICTS, Totals, choose, verdict_of
from maskrestore.runtime.files import replaced_atomically

__all__ = ["Metric", "ReportSummary", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A rate before and after the defense, for example clean accuracy."""

    name: str
    """A short name such as "CA"."""
    meaning: str
    """What it counts, as a heading: "Clean images with the true label"."""
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
    """The top of a report: everything that is not counted from its entries."""

    title: str = "maskrestore report"
    description: str = ""
    metrics: Sequence[Metric] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    """Shown as they are, so they must hold no secret. Names with a dot, such as ``masks.rounds``, are grouped by their
    first part."""
    key_fingerprint: str | None = None
    """The fingerprint of the operator's key, never the key."""
    left_out: Mapping[str, tuple[int, Sequence[str]]] = field(default_factory=dict)
    """What was not looked at: for each reason how many files or folders, and the first names."""
    images_per_second: float | None = None
    seconds: float | None = None


def write_report(
    out_dir: Path | str,
    entries: Iterable[ReportEntry],
    summary: ReportSummary | None = None,
    *,
    class_names: Sequence[str] | None = None,
    errors: Iterable[tuple[str, str]] = (),
    max_detailed: int = 30,
    max_listed: int = 5000,
    evidence_of: Callable[[str], Evidence | None] | None = None,
) -> Path:
    """Write ``report.html`` into a folder, which is created if it does not exist, and return its path.

    Images are sorted by their result: wrong before and after, label lost, recovered, changed, unchanged. Of those with
    the same result, answers in doubt come first; else images keep their order.

    Args:
        out_dir: the folder.
        entries: one per image. Entries and errors may be generators of any length: memory use is bounded by
            ``max_detailed`` and ``max_listed``.
        summary: title, rates, settings and speed.
        class_names: names of the labels, where known.
        errors: file name and reason of each image that could not be processed.
        max_detailed: number of entries with pictures. A sixth of them is reserved for each kind of result.
        max_listed: number of rows in the table of the other entries, and in the table of errors. A note counts the
            remaining ones.
        evidence_of: returns the pictures for the name of an entry that has none itself, or ``None``. It is only called
            for entries that are to be shown with pictures.

    Raises:
        ConfigError: if a cap is negative.
    """
    for name, value in (("max_detailed", max_detailed), ("max_listed", max_listed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; expected zero or more")
    totals = Totals()
    shown, listed = choose(totals.counted(entries), max_detailed, max_listed, evidence_of)
    columns = columns_for(shown)
    failures = iter(errors)
    page = _template().render(
        summary=summary or ReportSummary(),
        facts=_facts(totals, summary or ReportSummary()),
        verdicts=_verdict_counts(totals),
        columns=columns,
        phone_columns=3 if len(columns) in (3, 5, 6, 9) else 4,  # full rows, or nearly so
        settings=_setting_groups((summary or ReportSummary()).settings),
        gradient=Markup(viridis_css()),
        cards=[_card(entry, columns, class_names) for entry in shown],
        rows=[_texts(entry, class_names) for entry in listed],
        total=totals.images,
        errors=[(printable(name), printable(reason)) for name, reason in islice(failures, max_listed)],
        more_errors=sum(1 for _ in failures),
        has_truth=totals.has_truth,
        rated=totals.rated,
        doubtful=sum(entry.doubtful for entry in shown),
        left_out=[
            (printable(reason), count, ", ".join(map(printable, names)) + (", …" if count > len(names) else ""))
            for reason, (count, names) in (summary or ReportSummary()).left_out.items()
        ],
    )
    path = Path(out_dir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as draft:  # a reader sees the old or the new report
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _verdict_counts(totals: Totals) -> list[dict[str, Any]]:
    return [
        {"key": key, "sign": sign, "text": text, "tone": tone, "count": totals.verdicts[key]}
        for key, (sign, text, tone) in VERDICTS.items()
        if totals.verdicts[key]
    ]


def _texts(entry: ReportEntry, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return everything that is said about an entry in words."""
    verdict = verdict_of(entry)
    sign, text, tone = VERDICTS[verdict]
    return {
        "name": printable(entry.name),
        "note": printable(entry.note),
        "before": class_label(entry.label if entry.original_label is None else entry.original_label, class_names),
        "after": class_label(entry.label, class_names),
        "truth": None if entry.true_label is None else class_label(entry.true_label, class_names),
        "changed": entry.changed,
        "suspicion": None if entry.suspicion is None else f"{entry.suspicion:.2f}",
        "doubtful": entry.doubtful,
        "answer": _answer(entry, class_names),
        "queries": entry.queries,
        "restored": None if entry.restored is None else f"{100 * entry.restored:.1f} %",
        **{"verdict": verdict, "sign": sign, "verdict_text": text, "tone": tone},
    }


def _answer(entry: ReportEntry, class_names: Sequence[str] | None) -> str:
    """What was answered, if that was not the label of the purified image."""
    if entry.abstained:
        return "not answered"
    return "" if entry.answer is None else f"answered {class_label(entry.answer, class_names)}"


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


def _facts(totals: Totals, summary: ReportSummary) -> list[tuple[str, str]]:
    """Return the figures under the title as pairs of a name and a value."""
    facts = [("Images", f"{totals.images:,}")]
    if totals.compared or not totals.images:
        facts.append(("Labels changed", f"{totals.changed:,}"))
    if totals.rated:
        facts.append(("Answers in doubt", f"{totals.doubtful:,}"))
    if totals.abstained:
        facts.append(("Not answered", f"{totals.abstained:,}"))
    if totals.asked:
        mean = totals.queries / totals.asked
        facts.append(("Queries per image", f"{mean:.1f} (at most {totals.most_queries})"))
    if summary.images_per_second is not None:
        facts.append(("Images per second", f"{summary.images_per_second:.1f}"))
    if summary.seconds is not None:
        facts.append(("Time", f"{summary.seconds:.1f} s"))
    return facts


def _setting_groups(settings: Mapping[str, object]) -> dict[str, list[tuple[str, str]]]:
    """Group settings by the part of their name before the first dot; those without a dot are in the group ""."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for name, value in settings.items():
        group, dot, rest = name.partition(".")
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        groups.setdefault(group if dot else "", []).append((rest if dot else name, text))
    return groups


def _template() -> Any:
    package = resources.files("maskrestore.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = Markup(package.joinpath("report.css").read_text("utf-8"))
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    return environment.from_string(package.joinpath("report.html.j2").read_text("utf-8"))
