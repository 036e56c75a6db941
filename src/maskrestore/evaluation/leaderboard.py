"""The page of results: a leaderboard for each data set, every table that has records, and how to add to them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.evaluation.experiments import Pictures, Table
from maskrestore.evaluation.grid_tables import GridTable
from maskrestore.evaluation.grids import GRIDS
from maskrestore.evaluation.records import Record
from maskrestore.evaluation.sheets import Sheet, bold
from maskrestore.evaluation.summary import costs_of
from maskrestore.evaluation.tables import read_records_by_path

__all__ = ["Figure", "diffusion_model_of", "drawn_figures", "leaderboard", "read_folders", "results_page"]

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
for no rank. All rows of a column met a victim of the same recipe; where it was trained twice, the tables say which rows
met another one.
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


@dataclass(frozen=True)
class _Kind:
    """What a column of the leaderboard is about."""

    attack: str
    mode: str

    @property
    def title(self) -> str:
        """Of its column."""
        return self.attack if self.mode == "all-to-one" else f"{self.attack}, {self.mode}"


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
            missing = _left_out(one, drawn[0].with_suffix(".csv")) if isinstance(one, Pictures) else ()
            found.append(Figure(title=title, link=link, notes=(*notes, *missing)))
    return found


def _left_out(one: Pictures, values: Path) -> tuple[str, ...]:
    """A note on what a figure lacks, by the table of what it shows."""
    with values.open(encoding="utf-8", newline="") as file:
        shown = {(row["case"], row["defense"]) for row in csv.DictReader(file)}
    wanted = dict.fromkeys((case.label, variant.defense) for case in one.cases for variant in one.variants)
    missing = dict.fromkeys(
        case if all((case, other) not in shown for _, other in wanted) else f"{case} with {defense}"
        for case, defense in wanted
        if (case, defense) not in shown
    )
    return (f"Left out, for want of a victim or a model: {', '.join(missing)}.",) if missing else ()


def leaderboard(records: Sequence[Record]) -> list[Sheet]:
    """A sheet for each data set and width: a row for each defense with its own settings, a column for each attack.

    Victims are ResNet-18 with a backdoor, for each attack and repeat the one that most defenses met; repeats are
    averaged. Of a defense the settings of its newest record count, and of their records the one with most images.
    Attacks that fewer than half of the defenses met do not count for the ranks.
    """
    chosen = _comparable([one for one in records if _kind(one) is not None and "[" not in one.defense.name])
    titles = dict.fromkeys(_title(record) for record in chosen)
    return [_board(title, [record for record in chosen if _title(record) == title]) for title in titles]


def read_folders(folders: Sequence[Path]) -> list[Record]:
    """The records of folders of ``maskrestore reproduce``; of two that share a name the one of the first folder.

    Raises DataError if a folder has none or one is broken.
    """
    found: dict[str, Record] = {}
    for folder in folders:
        cells = folder / "cells"
        if not cells.is_dir():
            raise DataError(f"{folder} holds no records; make some with `maskrestore reproduce table2 --out {folder}`")
        for path, record in read_records_by_path(cells).items():
            found.setdefault(path.name, record)
    return list(found.values())


def diffusion_model_of(records: Sequence[Record]) -> str | None:
    """The digest of the diffusion model that most of the records were made with, if any: its cells carry it."""
    models = Counter(
        record.defense.restorer_weights
        for record in records
        if record.defense.restorer_weights is not None and "model" in record.defense.config
    )
    return max(models, key=lambda model: models[model]) if models else None


def _board(title: str, records: Sequence[Record]) -> Sheet:
    names = list(dict.fromkeys(record.defense.name for record in records))
    met = Counter(kind for kind, _ in {(_kind(record), record.defense.name) for record in records})
    every = [kind for kind in dict.fromkeys(map(_kind, records)) if kind is not None]
    ranking = [kind for kind in every if 2 * met[kind] >= len(names)]
    kinds = [*ranking, *(kind for kind in every if kind not in ranking)]
    scores = {
        (name, kind): _score([r for r in records if r.defense.name == name and _kind(r) == kind])
        for name in names
        for kind in kinds
    }

    def rank(name: str) -> tuple[int, float]:
        values = [value for kind in ranking if (value := scores[name, kind]) is not None]
        return len(ranking) - len(values), -sum(values) / max(1, len(values))

    best = {kind: max(value for name in names if (value := scores[name, kind]) is not None) for kind in kinds}
    rows = []
    for name in sorted(names, key=rank):
        values = [scores[name, kind] for kind in kinds]
        cells = [
            "–" if value is None else bold(f"{value:.1f}") if value == best[kind] else f"{value:.1f}"
            for kind, value in zip(kinds, values, strict=True)
        ]
        known = [value for value in values[: len(ranking)] if value is not None]
        costs = costs_of([record for record in records if record.defense.name == name])
        mean = f"{sum(known) / len(known):.1f}" if known and len(known) == len(ranking) else "–"
        rows.append((name, mean, *cells, f"{costs.queries:.1f}", f"{costs.seconds:.4f}"))
    titles = [kind.title if kind in ranking else f"*{kind.title}*" for kind in kinds]
    heads = ("defense", "mean", *titles, "queries/image", "s/image")
    return Sheet(title=title, heads=heads, rows=tuple(rows))


def _title(record: Record) -> str:
    return f"{record.dataset}, ResNet-18 of width {record.victim.config.get('width')}"


def _kind(record: Record) -> _Kind | None:
    """The column of a record; ``None`` when it belongs into no leaderboard."""
    config = record.victim.config
    if record.attack is None or config.get("attack") is None or config.get("architecture") != "resnet18":
        return None
    notes = " (restored)" if config.get("restored_rate") else ""
    notes += " (moved)" if config.get("augmented_trigger") else ""
    mode = str(config.get("mode", "all-to-one"))
    return _Kind(record.attack + notes, mode)


def _comparable(records: Sequence[Record]) -> list[Record]:
    """Those of the newest settings of each defense and, column by column, of one victim; one for each repeat."""
    oldest_first = sorted(records, key=lambda one: one.created)
    settings = {record.defense.name: record.defense.config for record in oldest_first}
    current = [record for record in oldest_first if record.defense.config == settings[record.defense.name]]
    met: dict[tuple[object, ...], dict[str, set[str]]] = {}
    for record in current:
        met.setdefault(_column(record), {}).setdefault(record.victim.digest, set()).add(record.defense.name)
    # Of two victims that as many met, the one whose first record is newer.
    victims = {column: max(reversed(found.items()), key=lambda item: len(item[1]))[0] for column, found in met.items()}
    latest: dict[tuple[object, ...], Record] = {}
    for record in sorted(current, key=lambda one: (one.clean_images + one.triggered_images, one.created)):
        if record.victim.digest == victims[_column(record)]:
            latest[*_column(record), record.defense.name] = record
    # In the order of the names, not of the clock: the page stays the same when a record is made again.
    return sorted(latest.values(), key=lambda one: (one.dataset, one.attack or "", one.defense.name, one.seed))


def _column(record: Record) -> tuple[object, ...]:
    """What stands in one column, repeat by repeat."""
    return _title(record), record.attack, _kind(record), record.seed


def _score(records: Sequence[Record]) -> float | None:
    """The mean of CA and BA in percent over repeats."""
    values = [(one.after.ca.value + one.after.ba.value) / 2 for one in records if one.after.ba is not None]
    return 100 * sum(values) / len(values) if values else None
