"""``maskrestore reproduce``: the tables and figures of the paper, cell by cell, at the size that the machine allows."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.table import Table as Listing

from maskrestore.cli.lab.train_victim import restoration
from maskrestore.cli.options import CacheOption, DataOption, DeviceOption, RestorerOption
from maskrestore.cli.terminal import FAILED, out, progress, say
from maskrestore.errors import MaskRestoreError, UnknownNameError
from maskrestore.lab.paper.catalogue import GRIDS
from maskrestore.lab.paper.cells import Cell, Scale
from maskrestore.lab.paper.layouts import Curves, Experiment, Pictures, Table
from maskrestore.lab.paper.scales import cells_of, experiment, scale_of, victims_of
from maskrestore.lab.runner.executor import Laboratory, Outcome
from maskrestore.lab.runner.plan import known_speeds, plan_line
from maskrestore.lab.runner.pool import available_cores, threads_of_a_worker
from maskrestore.lab.runner.resources import diffusion_digest, make_laboratory
from maskrestore.lab.runner.run_cells import run_cells, run_cells_in_processes
from maskrestore.lab.show.leaderboard import diffusion_model_of, read_folders
from maskrestore.lab.show.paper_tables import grid_table
from maskrestore.lab.show.pictures import draw_pictures
from maskrestore.lab.show.plots import draw_bars, draw_curves
from maskrestore.lab.show.results_page import drawn_figures, results_page
from maskrestore.lab.victims import TrainingProgress, VictimConfig, VictimData
from maskrestore.lab.victims import train_victim as train_network
from maskrestore.mae.restorer import DEFAULT_RESTORER
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.files import write_text_atomically

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
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that measure and train; they share the processor's cores.")
    ] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how many cells there are, what is missing and what it would take.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train victims that the cache lacks.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try cells again that failed before.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure the cells of this defense or detector only. May be repeated.")
    ] = None,
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--case", help='Measure cases with this text in their name only, as in "gtsrb badnets". May be repeated.'
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Experiments for each cell, if not as many as the scale has.")
    ] = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    diffusion: Annotated[
        Path | None, typer.Option(help="Folder with a diffusion model for the defenses that need one.")
    ] = None,
    device: DeviceOption = "cpu",
    page: Annotated[
        Path | None, typer.Option(help="File for the page of results; results.md in the folder if none.")
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Another folder with records for the page of results, beside --out. May be repeated."),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder with records of `maskrestore evaluate`; a cell that is one of them, by the same weights and "
            "settings on the same images, is not measured again. May be repeated."
        ),
    ] = None,
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Make tables and figures of the paper again: measure their cells, then write them with the paper's own figures.

    Each cell (data set, attack, victim, defense, repeat) is one JSON record in the folder of `--out`; a cell with a
    record is not measured again, whatever table it is for. Cells whose victims are trained come first. `--jobs` uses
    more cores; the same command in another terminal, or on another machine with the same folder, helps as well: each
    cell is measured by one of them. After Ctrl-C the same command goes on where it stopped. A cell that fails is noted
    beside its record and does not stop the others.

    Examples:

        maskrestore reproduce table2 --plan

        maskrestore reproduce table2 tableA3 fig5 --train --jobs 4

        maskrestore reproduce table2 --only blur-weak --only none --case cifar10

        maskrestore reproduce results --out benchmarks/results/local --page docs/results.md
    """
    size, folder = scale_of(scale), out_dir or Path("runs/reproduce") / scale
    wanted = list(GRIDS) if ALL in names else [name for name in dict.fromkeys(names) if name != RESULTS]
    chosen = {name: experiment(name) for name in wanted}
    model = None if diffusion is None else diffusion_digest(diffusion)
    choose = functools.partial(cells_of, scale=size, repeats=repeats, restorer=restorer)
    cells = {name: choose(one, diffusion=model) for name, one in chosen.items()}
    _check_selection(only or (), cases or (), _together(cells))
    measured = {name: _selected(ones, only, cases) for name, ones in cells.items()}
    victims = {name: victims_of(one, size) for name, one in chosen.items()}
    make = functools.partial(
        make_laboratory,
        data=data,
        cache=cache,
        diffusion=diffusion,
        device=device,
        train=functools.partial(_train, data=data, cache=cache, device=device) if train else None,
        known=known or (),
    )
    laboratory = make()
    if plan:
        _show_plan(measured, victims, folder, laboratory, jobs)
        return
    incomplete = _measure(_together(measured), _all(victims), folder, make, jobs=jobs, retry=retry)
    for name, one in chosen.items():
        shown = (
            cells[name] if _diffusion_is_known(cells[name], folder) else choose(one, diffusion=_recorded_model(folder))
        )
        incomplete += not _write(name, one, shown, folder, (laboratory, size, restorer))
    if RESULTS in names:
        _write_page(page or folder / "results.md", [folder, *(records or [])], choose, model)
    if incomplete:
        raise typer.Exit(FAILED)


def _diffusion_is_known(cells: Sequence[Cell], folder: Path) -> bool:
    """Whether no cell needs a diffusion model, or one that does has a record with the model that was named."""
    diffusing = [cell for cell in cells if cell.diffuses]
    return not diffusing or any((folder / cell.path).exists() for cell in diffusing)


def _recorded_model(folder: Path) -> str | None:
    """The diffusion model of the folder's records, if any: tables show them without the model at hand."""
    return diffusion_model_of(read_folders([folder])) if any((folder / "cells").glob("*.json")) else None


def _selected(cells: Sequence[Cell], defenses: Sequence[str] | None, cases: Sequence[str] | None) -> list[Cell]:
    return [
        cell
        for cell in cells
        if (not defenses or cell.variant.defense in defenses)
        and (not cases or any(text in cell.case.label for text in cases))
    ]


def _check_selection(defenses: Sequence[str], cases: Sequence[str], cells: Sequence[Cell]) -> None:
    known = dict.fromkeys(cell.variant.defense for cell in cells)
    for name in defenses:
        if name not in known:
            raise UnknownNameError("defense of these tables", name, known)
    labels = dict.fromkeys(cell.case.label for cell in cells)
    for text in cases:
        if not any(text in label for label in labels):
            raise UnknownNameError("case of these tables", text, labels)


def _together(cells: Mapping[str, Sequence[Cell]]) -> list[Cell]:
    """Each cell once: tables share some."""
    return list({cell.path: cell for ones in cells.values() for cell in ones}.values())


def _all(victims: Mapping[str, Sequence[VictimConfig]]) -> list[VictimConfig]:
    return [one for ones in victims.values() for one in ones]


def _train(
    config: VictimConfig,
    report: Callable[[TrainingProgress], None],
    *,
    data: Path | None,
    cache: Path | None,
    device: str,
) -> object:
    """Train a victim unless it is there."""
    return train_network(
        config,
        _images(config.dataset, data),
        cache=cache,
        report=lambda _, state, __: report(state),
        restoration=restoration(config, device),
        device=device,
    )


@functools.lru_cache(maxsize=1)  # a process trains one victim after the other, and decoding takes a minute
def _images(dataset: str, folder: Path | None) -> VictimData:
    return VictimData.load(dataset, folder)


def _measure(
    cells: Sequence[Cell],
    victims: Sequence[VictimConfig],
    folder: Path,
    make: Callable[[], Laboratory],
    *,
    jobs: int,
    retry: bool,
) -> int:
    """Measure cells and train victims under one progress display; returns how many of them failed or lack a victim."""
    done: list[Outcome] = []
    notes: dict[int, str] = {}
    with progress("cells") as update:

        def show(worker: int, note: str) -> None:
            notes[worker] = note
            update(len(done), len(cells), "; ".join(text for _, text in sorted(notes.items()) if text))

        def report(outcome: Outcome) -> None:
            done.append(outcome)
            if outcome.state == "failed":
                say(f"failed: {outcome.name}: {outcome.message}")
            show(-1, "")

        if jobs == 1:
            run_cells(cells, folder, make(), victims=victims, retry=retry, report=report, progress=show)
        else:
            run_cells_in_processes(
                cells, folder, make, jobs=jobs, victims=victims, retry=retry, report=report, progress=show
            )
    counts = Counter(outcome.state for outcome in done if isinstance(outcome.task, Cell))
    untrained = len(done) - counts.total()
    if cells:
        say(f"{', '.join(f'{count} {state}' for state, count in counts.items())} of {len(cells)} cells")
    _say_if_old([folder / one.cell.path for one in done if one.state == "kept"])
    if untrained:
        say(f"{untrained} victims that no cell needs could not be trained; the same command tries again")
    if counts["missing"]:
        lacking = dict.fromkeys(one.cell.case.label for one in done if one.state == "missing")
        say(f"victims that are not trained (add --train): {'; '.join(lacking)}")
    if counts["failed"]:
        say("failed cells are tried again with --retry")
    return counts["missing"] + counts["failed"] + untrained


def _say_if_old(records: Sequence[Path]) -> None:
    """Say of how many records the code was another: a cell's name knows its settings, not what they do."""
    now = current_environment().commit
    commits = [json.loads(path.read_text(encoding="utf-8"))["environment"]["commit"] for path in records]
    old = Counter(commit for commit in commits if commit != now)
    if old:
        named = ", ".join(f"{commit} ({count})" for commit, count in old.most_common())
        say(f"kept records of other revisions, this is {now}: {named}; to measure a cell again, delete its record")


def _write(
    name: str, one: Experiment, cells: Sequence[Cell], folder: Path, tools: tuple[Laboratory, Scale, str]
) -> bool:
    """Write a table or figure from what has been measured; returns whether that could be done."""
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
    except MaskRestoreError as error:  # a library for figures is missing, say: the other tables are written
        say(f"{name}: {error}")
        return False
    out.print(f"wrote {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return True


def _write_table(name: str, one: Table, cells: Sequence[Cell], folder: Path) -> list[Path]:
    made = grid_table(name, one, cells, [folder])
    base = folder / "tables" / name
    texts = {".md": made.markdown(), ".csv": made.csv(), ".tex": made.latex()} if made.sheets else {}
    texts = texts or {".md": made.markdown()}
    for suffix, text in texts.items():
        write_text_atomically(base.with_suffix(suffix), text)
    return [base.with_suffix(suffix) for suffix in texts]


def _write_page(path: Path, folders: Sequence[Path], choose: Callable[..., list[Cell]], model: str | None) -> None:
    """Write the page of results. model: digest of the diffusion model, if not the one of the records."""
    records = read_folders(folders)
    model = model or diffusion_model_of(records)
    tables = [
        grid_table(name, one, choose(one, diffusion=model), folders)
        for name, one in GRIDS.items()
        if isinstance(one, Table)
    ]
    write_text_atomically(path, results_page(records, tables, drawn_figures(path, folders)))
    out.print(f"wrote {path} from {len(records)} records", highlight=False, soft_wrap=True)


def _show_plan(
    cells: Mapping[str, Sequence[Cell]],
    victims: Mapping[str, Sequence[VictimConfig]],
    folder: Path,
    laboratory: Laboratory,
    jobs: int,
) -> None:
    """How many cells there are, how many are done, which victims are missing, and about how long the rest takes."""
    threads = threads_of_a_worker(jobs) if jobs > 1 else torch.get_num_threads()
    cores = min(jobs * threads, max(threads, available_cores()))  # more processes than processors take turns
    speeds = known_speeds(folder, laboratory)
    listing = Listing("name", "cells", "recorded", "failed", "victims to train", "hours left")
    for column in listing.columns[1:]:
        column.justify = "right"
    lines = {name: plan_line(ones, victims[name], folder, laboratory, speeds) for name, ones in cells.items()}
    together = plan_line(_together(cells), _all(victims), folder, laboratory, speeds)
    for name, line in {**lines, "together": together}.items():
        counts = (line.cells, line.recorded, line.failed, len(line.victims))
        listing.add_row(name, *map(str, counts), f"{line.core_hours / cores:.1f}")
    out.print(listing)
    each = f"{'each ' if jobs > 1 else ''}with {threads} thread{'s' if threads > 1 else ''}"
    say(f"hours: of {jobs} process{'es' if jobs > 1 else ''}, {each}, without the training of victims")
    if together.guessed:
        say(f"a rough guess, for want of records from this machine: {', '.join(together.guessed)}")
    if together.victims:
        say(f"victims to train: {'; '.join(_named(victim) for victim in together.victims)}")


def _named(victim: VictimConfig) -> str:
    notes = [f"{victim.dataset} {victim.architecture}", victim.attack or "clean"]
    notes += [victim.mode] if victim.mode != "all-to-one" else []
    notes += [f"seed {victim.seed}"] if victim.seed else []
    return " ".join(notes)
