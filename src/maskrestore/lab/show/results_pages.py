"""The pages of results: an overview, the leaderboards, and a page for each table and figure that has been made."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.paper.layouts import Curves, Experiment, Pictures, Table
from maskrestore.lab.show.leaderboard import diffusion_model_of, leaderboard, read_folders
from maskrestore.lab.show.paper_tables import FilledTable, fill_table
from maskrestore.runtime.files import write_text_atomically

__all__ = ["copy_figures", "results_pages", "write_pages"]

_MADE = "<!-- Made by `maskrestore reproduce results` from records: do not edit. -->\n\n"

_INDEX = """# Results

What has been measured, a page for each table and figure.

- CA: clean images that get their true label. BA: triggered images that get their true label. ASR: triggered images that
  get the attacker's label.
- In brackets: 95 % intervals. With several repeats they are Student's over the repeats. With a single repeat they are
  binomial, the ends averaged over the attacks of a column.
- Queries: how often the classifier is asked about an image. Generator passes: images that go through the masked
  autoencoder or the diffusion model for one image, copies that fill up a batch included.
- Seconds: on the hardware that is named, which most records come from. Lowest peak memory: the lowest of any record.
  Each is the highest resident memory of the whole process, with libraries, weights and the data set in it, or of what
  PyTorch held on a GPU.

Victims are trained on images that get their trigger after they were cropped and, on CIFAR-10, mirrored at random, so
that it lies where it does at test time. The paper's code puts it in before (`utils/dataset/bd_dataset.py`). The
table of triggers that training moves (`moved`) has victims that were poisoned in that way.

"""

_CONTENTS = """## Pages

The means are of CA and BA in %, over the columns of a table.

| page | ours at its best | best of the others |
| --- | --- | --- |
"""

_AGAIN = """
## Make these pages again

The records are in `benchmarks/results/local`. This command writes the pages anew, and measures nothing:

```
maskrestore reproduce results --out benchmarks/results/local --pages docs/research/results
```

`maskrestore reproduce table2 --train --jobs 4 --out FOLDER` measures what `FOLDER` lacks of a table, in four processes.
`--records` adds the records of another folder to the pages.
"""

_BOARDS = """# Leaderboard

The mean of CA and BA in %, the best of each attack in bold; – where it was not measured. Ranked by the mean over the
attacks that at least half of the rows met; rows that lack one of them come last. The other attacks, in italics, count
for no rank. Every defense has one set of settings here; in the tables Februus has its threshold chosen for each case,
as in the paper, and its layer. All rows of a column met a victim of the same recipe; where it was trained twice, the
tables say which rows met another one.

"""


def write_pages(pages: Path, folders: Sequence[Path], choose: Callable[..., list[Cell]], model: str | None) -> int:
    """Write the pages of what the folders of ``maskrestore reproduce`` hold; returns how many records there are.

    Figures are copied from the folders; one that no folder has stays as it is. choose: the cells of an experiment, with
    the keyword ``diffusion``. model: digest of the diffusion model, if not the one of the records. Pages that are not
    made any more are deleted. Raises DataError if a folder has no records or one is broken.
    """
    records = read_folders(folders)
    model = model or diffusion_model_of(records)
    tables = {
        name: fill_table(name, one, choose(one, diffusion=model), folders)
        for name, one in EXPERIMENTS.items()
        if isinstance(one, Table)
    }
    copy_figures(pages / "figures", folders)
    made = results_pages(records, tables, pages / "figures")
    for name, text in made.items():
        write_text_atomically(pages / name, text)
    for name in {f"{name}.md" for name in EXPERIMENTS} - made.keys():
        (pages / name).unlink(missing_ok=True)
    return len(records)


def copy_figures(target: Path, folders: Sequence[Path]) -> None:
    """Copy the figures that have been drawn, each from the first folder that has it, with their numbers."""
    for name in EXPERIMENTS:
        drawn = [folder / "figures" for folder in folders if (folder / "figures" / f"{name}.png").exists()]
        for source in (drawn[0] / f"{name}{suffix}" for suffix in (".png", ".csv") if drawn):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / source.name)


def results_pages(records: Sequence[Record], tables: Mapping[str, FilledTable], figures: Path) -> dict[str, str]:
    """Every page by its file name. figures: the folder with the figures, ``figures`` beside the pages."""
    sections = {name: _sections(name, one, tables.get(name), figures) for name, one in EXPERIMENTS.items()}
    found = {name: text for name, text in sections.items() if text}
    boards = [sheet.markdown(level=2) for sheet in leaderboard(records)]
    return {
        "index.md": _MADE + _INDEX + _contents(found, tables) + _AGAIN,
        "leaderboard.md": _MADE + _BOARDS + "\n".join(boards),
        **{f"{name}.md": _MADE + text for name, text in found.items()},
    }


def _contents(found: Mapping[str, str], tables: Mapping[str, FilledTable]) -> str:
    """A row for each page, and a sentence on what has none."""
    rows = ["| [Leaderboard](leaderboard.md): every defense, every attack | | |"]
    for name in found:
        compared = tables[name].verdict if name in tables else None
        means = f"{compared.ours} | {compared.others}{compared.reduced}" if compared else " | "
        rows.append(f"| [{EXPERIMENTS[name].title}]({name}.md) | {means} |")
    missing = [one.title for name, one in EXPERIMENTS.items() if name not in found]
    rest = f"\nNot measured: {'; '.join(missing)}.\n" if missing else ""
    return _CONTENTS + "\n".join(rows) + "\n" + rest


def _sections(name: str, one: Experiment, table: FilledTable | None, figures: Path) -> str:
    """A page without its first line; empty if there is nothing to show."""
    drawn = (figures / f"{name}.png").exists()
    picture = f"![{one.title}](figures/{name}.png)\n" if drawn else ""
    if table is not None:
        return f"{table.markdown()}\n## Drawn\n\n{picture}" if drawn else table.markdown() if table.sheets else ""
    if not drawn:
        return ""
    assert not isinstance(one, Table)
    notes = "".join(f"{note}\n\n" for note in (*one.notes, *_what_is_shown(one, figures / f"{name}.csv")))
    return f"# {one.title}\n\n{notes}{picture}\n[The numbers as CSV](figures/{name}.csv)\n"


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
            f"`maskrestore reproduce {values.stem}`"
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
    return (f"Left out, because a victim or a model is missing: {', '.join(missing)}.",) if missing else ()
