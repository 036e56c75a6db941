"""Draw accuracy against queries from records of ``maskrestore evaluate --max-queries N``.

python -m benchmarks.query_curve RECORDS.jsonl FIGURE.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from maskrestore.defense.config import BDMAEConfig
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record
from maskrestore.lab.show.plots import new_figure

RATES = {"ca": "clean accuracy", "ba": "accuracy on triggered images", "asr": "attack success rate"}
COLOURS = {"ca": "#0072b2", "ba": "#e69f00", "asr": "#009e73"}  # Okabe and Ito's, safe for colour blindness


def allowed(record: Record) -> int:
    """The largest number of queries for one image under the settings of the record."""
    return BDMAEConfig.from_dict(record.defense.config).max_queries


def draw(records: Sequence[Record], path: Path) -> None:
    """Lines over the number of queries allowed; group testing is drawn as single marks at its mean queries."""
    figure = new_figure(width=7, height=4)
    axes = figure.add_subplot()
    limited = sorted((record for record in records if "group_testing" not in record.defense.config), key=allowed)
    grouped = [record for record in records if "group_testing" in record.defense.config]
    for rate, title in RATES.items():
        values = [getattr(record.after, rate) for record in limited]
        x = [allowed(record) for record in limited]
        y = [100 * value.value for value in values]
        low, high = ([100 * getattr(value, end) for value in values] for end in ("low", "high"))
        axes.plot(x, y, marker="o", markersize=4, color=COLOURS[rate], label=title)
        axes.fill_between(x, low, high, color=COLOURS[rate], alpha=0.15, linewidth=0)
        for record in grouped:
            value = 100 * getattr(record.after, rate).value
            axes.plot(record.cost.queries_mean, value, marker="*", markersize=12, color=COLOURS[rate], linestyle="")
    axes.plot([], [], marker="*", markersize=10, color="#444444", linestyle="", label="profile fast, mean queries")
    axes.set(xlabel="queries allowed for one image", ylabel="%", ylim=(-3, 103))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, help="a file of records; benchmarks/schedules.sh makes one")
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    draw(read_records(arguments.records), arguments.figure)


if __name__ == "__main__":
    main()
