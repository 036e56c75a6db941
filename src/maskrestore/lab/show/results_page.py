"""The page of results: a leaderboard, every table, every figure, and how to add to them."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.catalogue import GRIDS
from maskrestore.lab.paper.layouts import Curves, Pictures, Table
from maskrestore.lab.show.leaderboard import leaderboard
from maskrestore.lab.show.paper_tables import GridTable

__all__ = ["Figure", "drawn_figures", "results_page"]

_HEAD = """# Results

Made by `maskrestore reproduce results` from records: do not edit. CA: clean images that get their true label; BA:
triggered images that get their true label; ASR: triggered images that get the attacker's label. In brackets: 95 %
intervals, Student's over the repeats, or with a single repeat the binomial one, its ends averaged over the attacks of a
column. Queries: how often the classifier is asked about an image. Generator passes: images that go through the masked
autoencoder or the diffusion model for one, copies that fill up a batch included. Seconds: on the hardware that is
named, which most records come from. Lowest peak memory: of the highest resident memory of the whole process, with
libraries, weights and the data set in it, or of what PyTorch held on a GPU, the lowest of any record.

Victims are trained on images that get their trigger after they were cropped and, on CIFAR-10, mirrored at random, so
that it lies where it does at test time. The paper's code puts it in before (`utils/dataset/bd_dataset.py`). The table
of triggers that training moves has two victims that were poisoned in that way: with 2x2-color on CIFAR-10 a horizontal
flip does nothing against it, and ShrinkPad and affine transformations do a little less than in the other tables.
"""

_BOARDS = """## Leaderboard

The mean of CA and BA in %, the best of each attack in bold; – where it was not measured. Ranked by the mean over the
attacks that at least half of the rows met; rows that lack one of them come last. The other attacks, in italics, count
for no rank. Every defense has one set of settings here; in the tables Februus has its threshold chosen for each case,
as in the paper, and its layer. All rows of a column met a victim of the same recipe; where it was trained twice, the
tables say which rows met another one.
"""

_HOW_TO_ADD = """## How to add yours

- **A defense**: one file in `src/maskrestore/baselines/` with a frozen dataclass of its settings whose `build(key)`
  returns something with `purify(images, classifier)`, and one line in `BASELINES` (`baselines/__init__.py`). The table
  in `tests/contracts/test_defenses.py` then holds it to what every defense promises.
- **A detector**: the same with `score(images, classifier)`, and a line in `DETECTORS`.
- **An attack**: one file in `src/maskrestore/attacks/`, a line in `ATTACKS`, and its name in one of the lists of
  `tests/contracts/test_attacks.py`.
- **A data set**: a line in `DATASETS` (`data/specs.py`). **A classifier**: a line in `ARCHITECTURES`
  (`victims/architectures.py`).
- **A row or a column of a table**: a line in `GRIDS` (`evaluation/grids.py`).

Then `maskrestore reproduce table2 --train --jobs 4 --out FOLDER` measures what is missing in four processes, and
`maskrestore reproduce results --out FOLDER --page docs/results.md` writes this page anew; `--records` adds another
folder's records. Those of this page are in `benchmarks/results/local`.
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture on the page."""

    title: str
    link: str
    """From the page."""
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """A section with the picture."""
        notes = "".join(f"{note}\n\n" for note in self.notes)
        return f"## {self.title}\n\n{notes}![{self.title}]({self.link})\n"


def results_page(records: Sequence[Record], tables: Sequence[GridTable], figures: Sequence[Figure] = ()) -> str:
    """The page in Markdown. tables: those of which records were found."""
    boards = [sheet.markdown() for sheet in leaderboard(records)]
    sections = [table.markdown() for table in tables if table.sheets]
    pictures = [figure.markdown() for figure in figures]
    return "\n".join([_HEAD, _BOARDS, *boards, *sections, *pictures, _HOW_TO_ADD])


def drawn_figures(page: Path, folders: Sequence[Path]) -> list[Figure]:
    """The figures that have been drawn, each from the first folder that has it, as ``page`` is to show them."""
    found = []
    for name, one in GRIDS.items():
        drawn = [picture for folder in folders if (picture := folder / "figures" / f"{name}.png").exists()]
        if drawn:
            link = Path(os.path.relpath(drawn[0], page.parent)).as_posix()
            # A table that is drawn, too, stands above with its notes.
            title, notes = (f"{one.title}, drawn", ()) if isinstance(one, Table) else (one.title, one.notes)
            shown = () if isinstance(one, Table) else _what_is_shown(one, drawn[0].with_suffix(".csv"))
            found.append(Figure(title=title, link=link, notes=(*notes, *shown)))
    return found


def _what_is_shown(one: Pictures | Curves, values: Path) -> tuple[str, ...]:
    """Notes on how much a figure shows and what it lacks, by the table beside it. Raises DataError without that."""
    try:
        with values.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if isinstance(one, Pictures):
            return _missing_pictures(one, {(row["case"], row["defense"]) for row in rows})
        return _curve_notes(one, rows)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{values} does not tell what its figure shows ({type(error).__name__}: {error}); draw it again with "
            f"`maskrestore reproduce {values.stem} --out {values.parent.parent}`"
        ) from error


def _curve_notes(one: Curves, rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    images = sorted({int(row["images"]) for row in rows})
    counts = f"{images[0]}" if len(images) == 1 else f"{images[0]} to {images[-1]}"
    shown = {(row["panel"], row["line"], float(row["x"])) for row in rows}
    wanted = {
        f"{panel.title}: {line.label}": [(panel.title, line.label, float(point.x)) in shown for point in line.points]
        for panel in one.panels
        for line in panel.lines
    }
    missing = [f"{name}{' in part' if any(there) else ''}" for name, there in wanted.items() if not all(there)]
    return (
        f"{counts} test images a point, clean and triggered, of all repeats; bands are 95 % intervals.",
        *((f"Not measured: {'; '.join(missing)}.",) if missing else ()),
    )


def _missing_pictures(one: Pictures, shown: set[tuple[str, str]]) -> tuple[str, ...]:
    wanted = dict.fromkeys((case.label, variant.defense) for case in one.cases for variant in one.variants)
    missing = dict.fromkeys(
        case if all((case, other) not in shown for _, other in wanted) else f"{case} with {defense}"
        for case, defense in wanted
        if (case, defense) not in shown
    )
    return (f"Left out, for want of a victim or a model: {', '.join(missing)}.",) if missing else ()
