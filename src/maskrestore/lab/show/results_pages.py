"""The results pages: an overview, the leaderboards, and a page for each table and figure with results."""

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

Measured results, with a page for each table and figure.

- CA: share of clean images with their true label. BA: share of triggered images with their true label. ASR: share of
  triggered images with the attacker's label.
- In brackets: 95 % intervals. With several repeats they are Student's intervals over the repeats. With a single repeat
  they are binomial intervals; their ends are averaged over the attacks of a column.
- Queries: number of queries to the classifier per image. Generator passes: number of passes through the masked
  autoencoder or the diffusion model per image, including copies that pad a batch.
- Seconds: per image, on the named hardware, which most records come from. Lowest peak memory: the lowest of all
  records. Each record has the peak resident memory of the whole process, including libraries, weights and the data
  set, or on a GPU the memory that PyTorch allocated.
- BDMAE, regions only: the default as it was before its later stages, which look for triggers over the whole image and
  for those with a target for each class, and spare more clean images. A table that has no figures of "BDMAE, default"
  was measured before them.

In training, the trigger is added after the images are cropped and, on CIFAR-10, mirrored at random, so it has the same
position as at test time. The paper's code adds it before (`utils/dataset/bd_dataset.py`). The victims of the table
`moved` are poisoned like that.

"""

_CONTENTS = """## Pages

Means of CA and BA in %, over the columns that at least half of the rows of a table have.

| page | best of this method | best of the others |
| --- | --- | --- |
"""

_AGAIN = """
## Make these pages again

The records are in `benchmarks/results/local`. This command writes the pages again, without measuring:

```
maskrestore reproduce results --out benchmarks/results/local --pages docs/research/results
```

`maskrestore reproduce table2 --train --jobs 4 --out FOLDER` measures the cells of a table that have no record in
`FOLDER`, in four processes. `--records` adds the records of another folder to the pages.
"""

_BOARDS = """# Leaderboard

Mean of CA and BA in %. The best of each attack is bold; – means not measured. The ranking uses the mean over the
attacks with results for at least half of the rows; rows without one of these attacks come last. Attacks in italics do
not count for the ranking. Every defense has one set of settings here; in the tables, the threshold of Februus (as in
the paper) and its layer are chosen for each case. All rows of a column have victims with the same recipe; if a victim
was trained twice, the tables say which rows have the other weights.

"""


def write_pages(pages: Path, folders: Sequence[Path], choose: Callable[..., list[Cell]], model: str | None) -> int:
    """Write the results pages from folders of ``maskrestore reproduce``. Returns the number of records.

    Figures are copied from the folders; figures that no folder has are kept. Outdated pages are deleted. choose:
    returns the cells of an experiment, given the keyword ``diffusion``. model: digest of the diffusion model; ``None``:
    that of the records. Raises DataError if a folder has no records or one is invalid.
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
    """Copy each figure and its CSV file from the first folder that has it."""
    for name in EXPERIMENTS:
        drawn = [folder / "figures" for folder in folders if (folder / "figures" / f"{name}.png").exists()]
        for source in (drawn[0] / f"{name}{suffix}" for suffix in (".png", ".csv") if drawn):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / source.name)


def results_pages(records: Sequence[Record], tables: Mapping[str, FilledTable], figures: Path) -> dict[str, str]:
    """Return every page by file name. figures: folder with the figures, named ``figures``, beside the pages."""
    sections = {name: _sections(name, one, tables.get(name), figures) for name, one in EXPERIMENTS.items()}
    found = {name: text for name, text in sections.items() if text}
    boards = [sheet.markdown(level=2) for sheet in leaderboard(records)]
    return {
        "index.md": _MADE + _INDEX + _contents(found, tables) + _AGAIN,
        "leaderboard.md": _MADE + _BOARDS + "\n".join(boards),
        **{f"{name}.md": _MADE + text for name, text in found.items()},
    }


def _contents(found: Mapping[str, str], tables: Mapping[str, FilledTable]) -> str:
    """Return the table of contents, and a sentence on the experiments without a page."""
    rows = ["| [Leaderboard](leaderboard.md): every defense, every attack | | |"]
    for name in found:
        compared = tables[name].verdict if name in tables else None
        means = f"{compared.ours} | {compared.others}{compared.reduced}" if compared else " | "
        rows.append(f"| [{EXPERIMENTS[name].title}]({name}.md) | {means} |")
    missing = [one.title for name, one in EXPERIMENTS.items() if name not in found]
    rest = f"\nNot measured: {'; '.join(missing)}.\n" if missing else ""
    return _CONTENTS + "\n".join(rows) + "\n" + rest


def _sections(name: str, one: Experiment, table: FilledTable | None, figures: Path) -> str:
    """Return a page without its first line, or "" if there is nothing to show."""
    drawn = (figures / f"{name}.png").exists()
    picture = f"![{one.title}](figures/{name}.png)\n" if drawn else ""
    if table is not None:
        return f"{table.markdown()}\n## Figure\n\n{picture}" if drawn else table.markdown() if table.sheets else ""
    if not drawn:
        return ""
    assert not isinstance(one, Table)
    notes = "".join(f"{note}\n\n" for note in (*one.notes, *_what_is_shown(one, figures / f"{name}.csv")))
    return f"# {one.title}\n\n{notes}{picture}\n[The numbers as CSV](figures/{name}.csv)\n"


def _what_is_shown(one: Pictures | Curves, values: Path) -> tuple[str, ...]:
    """Return notes on what a figure shows and lacks, from its CSV file ``values``. Raises DataError without it."""
    try:
        with values.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if isinstance(one, Pictures):
            return _missing_pictures(one, {(row["case"], row["defense"]) for row in rows})
        return _curve_notes(one, rows)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{values} cannot be read as the numbers of its figure ({type(error).__name__}: {error}); draw it again "
            f"with `maskrestore reproduce {values.stem}`"
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
        f"{counts} test images per point, clean and triggered, over all repeats; bands are 95 % intervals.",
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
