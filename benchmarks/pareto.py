"""Draw accuracy against queries and against time for the profiles, from records of ``maskrestore evaluate``.

python -m benchmarks.pareto FIGURE.png RECORDS.jsonl...

Each file has two panels, with a mark for each defense: the means of CA and BA, of queries and of seconds over the
attacks that all defenses of the file have records of. A line joins the Pareto front.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record
from maskrestore.lab.show.plots import COLOURS, new_figure

NAMES = {
    "bdmae": "default",
    "bdmae-fast": "fast",
    "bdmae-paper": "paper",
    "bdmae-paper-fast": "paper-fast",
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A defense: its cost per image, and its accuracy, the mean of CA and BA in percent."""

    queries: float
    seconds: float
    accuracy: float


def marks_of(records: Sequence[Record]) -> dict[str, Mark]:
    """Marks of the defenses in ``NAMES``, over the attacks that all of them have records of.

    Raises DataError if there is no such attack.
    """
    known = [record for record in records if record.defense.name in NAMES and record.after.ba is not None]
    met = {name: {one.attack for one in known if one.defense.name == name} for name in NAMES}
    shared = set.intersection(*(attacks for attacks in met.values() if attacks)) if known else set()
    if not shared:
        raise DataError(f"no attack with records of all of {', '.join(NAMES)}; benchmarks/accuracy.sh makes them")
    chosen = {name: [r for r in known if r.defense.name == name and r.attack in shared] for name in NAMES if met[name]}
    return {name: _mark(ones) for name, ones in chosen.items()}


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names on the Pareto front of points (cost, accuracy), in ascending order of cost."""
    found: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not found or points[name][1] > points[found[-1]][1]:
            found.append(name)
    return found


def draw(files: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Draw a row of panels for each file and save the figure. files: records by the title of their row."""
    figure = new_figure(width=9, height=3.4 * len(files))
    panels = figure.subplots(len(files), 2, squeeze=False, sharey="row")
    for row, (title, records) in zip(panels, files.items(), strict=True):
        marks = marks_of(records)
        for axes, kind in zip(row, ("queries", "seconds"), strict=True):
            points = {name: (getattr(mark, kind), mark.accuracy) for name, mark in marks.items()}
            best = [points[name] for name in front(points)]
            axes.plot(*zip(*best, strict=True), color="#999999", linewidth=1, zorder=1)
            for name, colour, marker in zip(NAMES, COLOURS, "os^D", strict=False):
                if name in points:
                    axes.scatter(*points[name], color=colour, marker=marker, s=45, label=NAMES[name], zorder=2)
            axes.set(xlabel=f"{kind} an image", xlim=(0, None), title=title)
            axes.grid(alpha=0.3)
        row[0].set(ylabel="mean of CA and BA, %")
    panels[0][1].legend(loc="best")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("files", type=Path, nargs="+", metavar="RECORDS")
    arguments = parser.parse_args()
    draw({file.stem: read_records(file) for file in arguments.files}, arguments.figure)


def _mark(records: Sequence[Record]) -> Mark:
    scores = [(one.after.ca.value + one.after.ba.value) / 2 for one in records if one.after.ba is not None]
    return Mark(
        queries=statistics.mean(one.cost.queries_mean for one in records),
        seconds=statistics.mean(1 / one.cost.images_per_second for one in records),
        accuracy=100 * statistics.mean(scores),
    )


if __name__ == "__main__":
    main()
