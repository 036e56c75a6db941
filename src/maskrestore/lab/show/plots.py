"""Figures with matplotlib: curves and bars from records, each with its numbers in a CSV file beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrestore.errors import DataError, MissingDependencyError
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.cells import Case, Cell, Variant
from maskrestore.lab.paper.layouts import Curves, Line, Panel, Table
from maskrestore.lab.show.summary import RATES, read_cells, summarise
from maskrestore.runtime.files import write_text_atomically
from maskrestore.statistics import Estimate, estimate

__all__ = ["COLOURS", "curve_numbers", "draw_bars", "draw_curves", "new_figure", "save"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""The colours of Okabe and Ito, which are distinguishable with any kind of colour vision (jfly.uni-koeln.de/color).
Grey replaces their yellow, which is too faint for lines."""

_MARKERS = "osD^vPX*"
_STANDARD: dict[str, Any] = {"color": "#666666", "linestyle": ":", "linewidth": 1.2}
_NAMES = {"ca": "CA", "ba": "BA", "asr": "ASR"}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A point of a curve, or the length of a bar, in percent."""

    panel: str
    line: str
    x: float | str
    rate: str
    mean: float
    low: float
    high: float
    repeats: int
    images: int
    """Number of test images of all repeats, clean and triggered."""


def draw_curves(path: Path, curves: Curves, cells: Sequence[Cell], folder: Path) -> Path:
    """Draw the panels with records in ``folder``. Write ``path`` and a CSV file with the same name; return ``path``.

    At most four panels are side by side; each shows CA, BA and ASR below each other. Points without a record are left
    out. Raises DataError without any record, and MissingDependencyError without matplotlib.
    """
    numbers = curve_numbers(curves, read_cells(cells, [folder]))
    panels = [panel for panel in curves.panels if any(number.panel == panel.title for number in numbers)]
    if not panels:
        raise DataError(f"no records for {curves.title!r} in {folder}; run the cells first")
    bands = _bands(panels)
    figure = new_figure(
        width=1.2 + 3.1 * len(bands[0]), height=(2.2 * len(RATES) + 0.7) * len(bands) + 0.3 + _legend_height(panels)
    )
    axes = []  # of each panel, from top to bottom
    styles = _styles(panels)
    for band, part in zip(bands, figure.subfigures(len(bands), squeeze=False)[:, 0], strict=True):
        grid = part.subplots(len(RATES), len(bands[0]), squeeze=False, sharex="col")
        for column in grid.T[len(band) :]:
            for empty in column:
                empty.set_axis_off()
        for panel, column in zip(band, grid.T, strict=False):
            for rate, place in zip(RATES, column, strict=True):
                _curve_axes(place, panel, rate, numbers, styles)
            column[-1].xaxis.get_major_locator().set_params(integer=_whole(panel))
            column[0].set_title(panel.title, fontsize=11)
            column[-1].set_xlabel(panel.x_label)
            axes.append(column)
        part.align_ylabels()
    _legends(figure, axes, panels)
    return save(figure, path, numbers)


def curve_numbers(curves: Curves, records: Mapping[tuple[Case, Variant, int], Record]) -> list[Number]:
    """Return the points with records, in the order of the figure."""
    numbers = []
    for panel in curves.panels:
        for line in panel.lines:
            for point in line.points:
                found = [one for (c, v, _), one in records.items() if (c, v) == (point.case, point.variant)]
                images = sum(one.clean_images + one.triggered_images for one in found)
                for rate in RATES:
                    values = [value for one in found if (value := getattr(one.after, rate)) is not None]
                    if values:
                        mean = estimate([[value] for value in values])
                        numbers.append(_number((panel.title, line.label, point.x, rate), mean, images))
    return numbers


def draw_bars(path: Path, table: Table, cells: Sequence[Cell], folder: Path) -> Path:
    """Draw a table with one column as bars, one group per row. Write ``path`` and a CSV file; return ``path``.

    Raises DataError without any record, and MissingDependencyError without matplotlib.
    """
    records = read_cells(cells, [folder])
    (column,) = table.columns
    summaries = [(row.label, summarise(row, column.cases, records)) for row in table.rows]
    numbers = [
        _number((column.title, label, label, rate), value, summary.images)
        for label, summary in summaries
        if summary is not None
        for rate in RATES
        if (value := summary.rates[rate]) is not None
    ]
    if not numbers:
        raise DataError(f"no records for {table.title!r} in {folder}; run the cells first")
    labels = list(dict.fromkeys(number.line for number in numbers))
    figure = new_figure(width=8.0, height=1.2 + 0.5 * len(labels))
    axes = figure.subplots()
    for position, rate in enumerate(RATES):
        bars = [number for number in numbers if number.rate == rate]
        axes.barh(
            [labels.index(bar.line) + 0.27 * (position - 1) for bar in bars],
            [bar.mean for bar in bars],
            height=0.25,
            color=COLOURS[position],
            label=_NAMES[rate],
            xerr=[[bar.mean - bar.low for bar in bars], [bar.high - bar.mean for bar in bars]],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#444444"},
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of images in %, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(RATES), frameon=False)
    return save(figure, path, numbers)


def new_figure(*, width: float, height: float) -> Any:
    """Return an empty figure without a window; width and height are in inches.

    Raises MissingDependencyError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an optional dependency
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "lab") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path, numbers: Sequence[Any]) -> Path:
    """Write the figure to ``path`` and ``numbers`` to a CSV file beside it. Returns ``path``.

    figure: ``None`` when the picture already exists. numbers: at least one, dataclasses of the same kind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if figure is not None:
        figure.savefig(path, dpi=150)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(vars(numbers[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(number) for number in numbers)
    write_text_atomically(path.with_suffix(".csv"), text.getvalue())
    return path


def _curve_axes(
    axes: Any, panel: Panel, rate: str, numbers: Sequence[Number], styles: Mapping[str, Mapping[str, Any]]
) -> None:
    for line in panel.lines:
        points = [one for one in numbers if (one.panel, one.line, one.rate) == (panel.title, line.label, rate)]
        if points:
            style = styles[line.label]
            places = [float(point.x) for point in points]
            axes.plot(places, [point.mean for point in points], label=_typeset(line.label), **style)
            spans = ([point.low for point in points], [point.high for point in points])
            axes.fill_between(places, *spans, color=style["color"], alpha=0.1, linewidth=0)
    if panel.standard is not None:
        axes.axvline(panel.standard, **_STANDARD)
    axes.set_ylim(-4, 104)
    axes.grid(alpha=0.3)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(f"{_NAMES[rate]} in %")


def _bands(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Split the panels into rows of about equal length, at most four: more side by side are too small to read."""
    side = -(-len(panels) // -(-len(panels) // 4))  # ceil
    return [panels[start : start + side] for start in range(0, len(panels), side)]


def _whole(panel: Panel) -> bool:
    """Return whether all x values are integers, so that the axis needs integer ticks only."""
    return all(float(point.x).is_integer() for line in panel.lines for point in line.points)


def _styles(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """Return the style of each line by label. A task has the same colour and marker in all panels."""
    lines = [line for panel in panels for line in panel.lines]
    tasks = list(dict.fromkeys(map(_task, lines)))
    return {line.label: _style(tasks.index(_task(line)), dashed=line.dashed) for line in lines}


def _task(line: Line) -> str:
    """Return the task of a line: its case if there is only one, else its label."""
    cases = {point.case for point in line.points}
    return cases.pop().label if len(cases) == 1 else line.label


def _style(place: int, *, dashed: bool) -> dict[str, Any]:
    colour = COLOURS[place % len(COLOURS)]
    return {
        "color": colour,
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.5,
        "linestyle": "--" if dashed else "-",
        "markerfacecolor": "white" if dashed else colour,
    }


def _typeset(label: str) -> str:
    """Return a label with the symbols of the scores as formulas."""
    return label.replace("S_i", "$S_i$").replace("S_l", "$S_l$")


def _legends(figure: Any, axes: Any, panels: Sequence[Panel]) -> None:
    """Draw one legend below all panels if they have the same lines, else one below each."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - an optional dependency
    from matplotlib.patches import Patch  # noqa: PLC0415

    band = Patch(color="#888888", alpha=0.25, linewidth=0, label="95 % interval")
    standard = Line2D([], [], label="the paper's setting", **_STANDARD)
    shared = len({tuple(line.label for line in panel.lines) for panel in panels}) == 1
    for position in range(1 if shared else len(panels)):
        marked = [standard] if panels[position].standard is not None else []
        handles = [*axes[position][0].get_legend_handles_labels()[0], band, *marked]
        if shared:
            figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=8)
        else:
            axes[position][-1].legend(
                handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False, fontsize=7.5
            )


def _legend_height(panels: Sequence[Panel]) -> float:
    return 0.19 * (2 + max(len(panel.lines) for panel in panels))


def _number(place: tuple[str, str, float | str, str], value: Estimate, images: int) -> Number:
    panel, line, x, rate = place
    percent = {end: round(100 * getattr(value, end), 2) for end in ("mean", "low", "high")}
    return Number(panel=panel, line=line, x=x, rate=rate, repeats=value.repeats, images=images, **percent)
