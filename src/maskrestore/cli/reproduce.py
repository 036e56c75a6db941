"""``maskrestore reproduce``: the tables and figures of the paper, cell by cell, at the size that the machine allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table as Listing

from maskrestore.cli.options import CacheOption, DataOption, RestorerOption
from maskrestore.cli.terminal import FAILED, Update, out, progress, say
from maskrestore.cli.train_victim import train_with_progress
from maskrestore.errors import DataError
from maskrestore.evaluation.experiments import Curves, Experiment, Pictures, Table
from maskrestore.evaluation.gallery import draw_pictures
from maskrestore.evaluation.grid import Cell, Scale
from maskrestore.evaluation.grid_tables import grid_table
from maskrestore.evaluation.grids import GRIDS
from maskrestore.evaluation.laboratory import make_laboratory
from maskrestore.evaluation.leaderboard import read_folder, results_page
from maskrestore.evaluation.plots import draw_bars, draw_curves
from maskrestore.evaluation.records import write_text_atomically
from maskrestore.evaluation.reproduce import Laboratory, Outcome, failure_path, run_cells
from maskrestore.evaluation.run import EvaluationProgress
from maskrestore.evaluation.scales import cells_of, estimated_seconds, experiment, scale_of
from maskrestore.mae.restorer import DEFAULT_RESTORER
from maskrestore.victims import VictimConfig

__all__ = ["reproduce"]

ALL, RESULTS = "all", "results"
"""Names that stand for every table and figure, and for the page of results."""


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help=f"Tables and figures: {', '.join(GRIDS)}; `{ALL}` for all of them, or `{RESULTS}` for a page with "
            "everything that has records.",
        ),
    ],
    *,
    scale: Annotated[
        Literal["smoke", "local", "full"],
        typer.Option(help="smoke: a minute; local: hours on two cores; full: the paper's size, for an accelerator."),
    ] = "local",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for records, tables and figures; runs/reproduce/SCALE if none.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how many cells there are and what they would take.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train victims that the cache lacks.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try cells again that failed before.")] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Experiments for each cell, if not as many as the scale has.")
    ] = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    diffusion: Annotated[
        Path | None, typer.Option(help="Folder with a diffusion model for the defenses that need one.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run: cpu or cuda.")] = "cpu",
    page: Annotated[
        Path | None, typer.Option(help="File for the page of results; results.md in the folder if none.")
    ] = None,
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Make tables and figures of the paper again: measure their cells, then write them with the paper's own figures.

    Each cell (data set, attack, victim, defense, repeat) is one JSON record in the folder of `--out`; a cell with a
    record is not measured again, whatever table it is for. Start the command in several terminals to use more cores:
    each cell is measured by one of them. After Ctrl-C the same command goes on where it stopped. A cell that fails is
    noted beside its record and does not stop the others.

    Examples:

        maskrestore reproduce table2 --plan

        maskrestore reproduce table2 tableA3 fig5 --train

        maskrestore reproduce results --page docs/results.md
    """
    size, folder = scale_of(scale), out_dir or Path("runs/reproduce") / scale
    wanted = list(GRIDS) if ALL in names else [name for name in dict.fromkeys(names) if name != RESULTS]
    chosen = {name: experiment(name) for name in wanted}
    cells = {name: cells_of(one, size, repeats=repeats, restorer=restorer) for name, one in chosen.items()}
    laboratory = make_laboratory(
        data=data,
        cache=cache,
        diffusion=diffusion,
        device=device,
        train=(lambda config: train_with_progress(config, cache=cache, data=data)) if train else None,
    )
    if plan:
        _show_plan(cells, folder, laboratory)
        return
    incomplete = 0
    for name, one in chosen.items():
        incomplete += _measure(name, cells[name], folder, laboratory, retry=retry)
        _write(name, one, cells[name], folder, (laboratory, size, restorer))
    if RESULTS in names:
        _write_page(page or folder / "results.md", folder, size, repeats, restorer)
    if incomplete:
        raise typer.Exit(FAILED)


def _measure(name: str, cells: Sequence[Cell], folder: Path, laboratory: Laboratory, *, retry: bool) -> int:
    """Measure the cells of a table or figure; returns how many failed or lack a victim."""
    if not cells:
        return 0
    done: list[Outcome] = []
    with progress(name) as update:

        def report(outcome: Outcome) -> None:
            done.append(outcome)
            if outcome.state == "failed":
                say(f"failed: {outcome.cell.name}: {outcome.message}")
            update(len(done), len(cells), outcome.cell.variant.defense)

        run_cells(
            cells,
            folder,
            laboratory,
            retry=retry,
            report=report,
            progress=lambda cell, state: _show(update, cell, state, len(done), len(cells)),
        )
    counts = Counter(outcome.state for outcome in done)
    say(f"{name}: {', '.join(f'{count} {state}' for state, count in counts.items())} of {len(cells)} cells")
    if counts["missing"]:
        lacking = dict.fromkeys(one.cell.case.label for one in done if one.state == "missing")
        say(f"victims that are not trained (add --train): {'; '.join(lacking)}")
    if counts["failed"]:
        say("failed cells are tried again with --retry")
    return counts["missing"] + counts["failed"]


def _show(update: Update, cell: Cell, state: EvaluationProgress, done: int, total: int) -> None:
    update(done, total, f"{cell.case.label}, {cell.variant.defense}: {state.done}/{state.total} images")


def _write(
    name: str, one: Experiment, cells: Sequence[Cell], folder: Path, tools: tuple[Laboratory, Scale, str]
) -> None:
    """Write a table or figure from what has been measured."""
    laboratory, size, restorer = tools
    picture = folder / "figures" / f"{name}.png"
    try:
        if isinstance(one, Table):
            written = _write_table(name, one, cells, folder)
            written += [draw_bars(picture, one, cells, folder)] if one.bars else []
        elif isinstance(one, Curves):
            written = [draw_curves(picture, one, cells, folder)]
        else:
            assert isinstance(one, Pictures)
            written = [draw_pictures(picture, one, size, laboratory, restorer=restorer, report=say)]
    except DataError as error:
        say(f"{name}: {error}")
        return
    out.print(f"wrote {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def _write_table(name: str, one: Table, cells: Sequence[Cell], folder: Path) -> list[Path]:
    made = grid_table(name, one, cells, folder)
    base = folder / "tables" / name
    texts = {".md": made.markdown(), ".csv": made.csv(), ".tex": made.latex()} if made.sheets else {}
    texts = texts or {".md": made.markdown()}
    for suffix, text in texts.items():
        write_text_atomically(base.with_suffix(suffix), text)
    return [base.with_suffix(suffix) for suffix in texts]


def _write_page(path: Path, folder: Path, size: Scale, repeats: int | None, restorer: str) -> None:
    records = read_folder(folder)
    tables = [
        grid_table(name, one, cells_of(one, size, repeats=repeats, restorer=restorer), folder)
        for name, one in GRIDS.items()
        if isinstance(one, Table)
    ]
    write_text_atomically(path, results_page(records, tables))
    out.print(f"wrote {path} from {len(records)} records", highlight=False, soft_wrap=True)


def _show_plan(cells: dict[str, list[Cell]], folder: Path, laboratory: Laboratory) -> None:
    """How many cells there are, how many are done, which victims are missing, and about how long the rest takes."""
    listing = Listing("name", "cells", "recorded", "failed", "victims to train", "hours left")
    for column in listing.columns[1:]:
        column.justify = "right"
    everything = {cell.path: cell for ones in cells.values() for cell in ones}
    for name, ones in {**cells, "together": list(everything.values())}.items():
        left = [cell for cell in ones if not (folder / cell.path).exists()]
        failed = sum(failure_path(folder / cell.path).exists() for cell in left)
        victims = [config for cell in left for config in _with_start(cell.victim)]
        missing = len({path for path in map(laboratory.victim_file, victims) if not path.exists()})
        hours = estimated_seconds(left) / 3600
        listing.add_row(name, *map(str, (len(ones), len(ones) - len(left), failed, missing)), f"{hours:.1f}")
    out.print(listing)
    say("hours: of two cores, roughly, without the training of victims")


def _with_start(config: VictimConfig) -> list[VictimConfig]:
    """A victim and the clean one that its training starts from."""
    return [config, config.clean()] if config.fine_tuned else [config]
