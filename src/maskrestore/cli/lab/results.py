"""Print the progress and the result of an evaluation."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from maskrestore.cli.terminal import out
from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.measure.records import Record
from maskrestore.lab.measure.run import EvaluationProgress
from maskrestore.statistics import Auroc, Rate
from maskrestore.types import Progress

__all__ = ["RATES", "progress_of", "show_detection", "show_record"]

RATES = {
    "ca": ("CA", "clean images that get their true label"),
    "ba": ("BA", "triggered images that get their true label"),
    "asr": ("ASR", "triggered images that get the attacker's label"),
}
"""Fields of Metrics, with their short names and what they count."""


def progress_of(update: Progress) -> Callable[[EvaluationProgress], None]:
    """Return a callback that shows the progress of an evaluation on a progress bar."""

    def show(state: EvaluationProgress) -> None:
        speed = state.done / state.seconds if state.seconds else 0.0
        update(state.done, state.total, f"{state.queries:.1f} queries/image, {speed:.1f} images/s")

    return show


def show_record(record: Record) -> None:
    """Print the rates before and after the defense, with their 95 % intervals, and the costs."""
    table = Table(title=f"{record.dataset}, {record.attack or 'clean model'}, {record.defense.name}")
    for heading in ("", "before [95 %]", "after [95 %]", "images"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    meanings = []
    for name, (short, meaning) in RATES.items():
        before: Rate | None = getattr(record.before, name)
        after: Rate | None = getattr(record.after, name)
        if before is not None and after is not None:
            table.add_row(short, str(before), str(after), str(after.trials))
            meanings.append(f"{short}: {meaning}")
    out.print(table, highlight=False)
    for line in meanings:
        out.print(line, highlight=False)
    cost = record.cost
    restored = "" if cost.restored_mean is None else f"; {100 * cost.restored_mean:.1f} % of the tokens restored"
    out.print(
        f"{cost.queries_mean:.1f} queries per image (at most {cost.queries_max}); "
        f"{cost.images_per_second:.1f} images/s, {cost.seconds:.1f} s{restored}",
        highlight=False,
        soft_wrap=True,
    )
    if record.suspicion is not None and record.suspicion.auroc is not None:
        out.print(f"suspicion: AUROC {_area(record.suspicion.auroc)}", highlight=False)


def show_detection(record: DetectionRecord) -> None:
    """Print the AUROC of a detector with its 95 % interval, and its queries."""
    out.print(
        f"{record.dataset}, {record.attack}, {record.detector}: AUROC {_area(record.auroc)} over "
        f"{record.clean_images} clean and {record.triggered_images} triggered images; "
        f"{record.queries_mean:.1f} queries per image, {record.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _area(found: Auroc) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
