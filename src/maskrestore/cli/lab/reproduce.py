"""``maskrestore reproduce``: measure the cells of the paper's tables and figures, and write them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from maskrestore.cli.lab.reproduce_plan import all_victims, distinct_cells, show_plan
from maskrestore.cli.lab.reproduce_run import measure_cells, train_victim
from maskrestore.cli.lab.reproduce_workers import chosen_workers
from maskrestore.cli.options import CacheOption, DataOption, DeviceOption, RayOption, RestorerOption
from maskrestore.cli.terminal import FAILED, out, say
from maskrestore.errors import MaskRestoreError, UnknownNameError
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.paper.scales import cells_of, experiment, scale_of, victims_of
from maskrestore.lab.runner.resources import diffusion_digest, make_resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.show.experiments import write_experiment
from maskrestore.lab.show.leaderboard import diffusion_model_of, read_folders
from maskrestore.lab.show.results_pages import write_pages
from maskrestore.mae.choice import DEFAULT_RESTORER

__all__ = ["reproduce"]

ALL, RESULTS = "all", "results"
"""Special names: every table and figure; the results pages."""


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help=f"Tables and figures: {', '.join(EXPERIMENTS)}; `{ALL}` for all of them; `{RESULTS}` for the results "
            "pages, which show everything that has records.",
        ),
    ],
    *,
    scale: Annotated[
        Literal["smoke", "local", "full"],
        typer.Option(help="smoke: a minute; local: hours on two cores; full: the paper's size, for an accelerator."),
    ] = "local",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for records, tables and figures. Default: runs/reproduce/SCALE."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes that measure and train, which share the processor cores. Default: 1; with --ray "
            "one for each core of the cluster, or for each GPU with `--device cuda`.",
        ),
    ] = None,
    ray: RayOption = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only print the number of cells, what is missing and the estimated time."),
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train victims that are not in the cache.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Measure cells again that failed before.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only the cells of this defense or detector. May be repeated.")
    ] = None,
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--case", help='Measure only cases with this text in their name, e.g. "gtsrb badnets". May be repeated.'
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Number of repeats of each cell. Default: that of the scale.")
    ] = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    diffusion: Annotated[
        Path | None, typer.Option(help="Folder with the diffusion model for the defenses that use one.")
    ] = None,
    device: DeviceOption = "cpu",
    pages: Annotated[
        Path | None, typer.Option(help="Folder for the results pages. Default: `pages` in the folder of --out.")
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Another folder with records for the results pages, besides --out. May be repeated."),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file or folder with records of `maskrestore evaluate`. A cell with the same weights, settings and "
            "images as one of them is not measured again. May be repeated."
        ),
    ] = None,
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Reproduce tables and figures of the paper: measure their cells, then write them beside the paper's numbers.

    Each cell (data set, attack, victim, defense, repeat) is one line of `cells.jsonl` or `detections.jsonl` in the
    folder of `--out`. A cell with a record is not measured again, for any table. Cells whose victim is trained come
    first. Several processes share the cells: `--jobs` starts them, and the same command can run in another terminal or
    on another machine with access to the folder. `--ray` spreads them over the nodes of a cluster,
    which must share the folders of `--out`, `--data` and `--cache`. After Ctrl-C the same command resumes. A cell that
    fails, or whose worker dies, is recorded in `failures.jsonl`; the others continue.

    Examples:

        maskrestore reproduce table2 --plan

        maskrestore reproduce table2 tableA3 fig5 --train --jobs 4

        maskrestore reproduce table2 --train --ray head-node:6379 --out /shared/runs --cache /shared/victims

        maskrestore reproduce table2 --only blur-weak --only none --case cifar10

        maskrestore reproduce results --out benchmarks/results/local --pages docs/research/results
    """
    size, folder = scale_of(scale), out_dir or Path("runs/reproduce") / scale
    wanted = list(EXPERIMENTS) if ALL in names else [name for name in dict.fromkeys(names) if name != RESULTS]
    chosen = {name: experiment(name) for name in wanted}
    model = None if diffusion is None else diffusion_digest(diffusion)
    choose = functools.partial(cells_of, scale=size, repeats=repeats, restorer=restorer)
    cells = {name: choose(one, diffusion=model) for name, one in chosen.items()}
    _check_selection(only or (), cases or (), distinct_cells(cells))
    measured = {name: _selected(ones, only, cases) for name, ones in cells.items()}
    victims = {name: victims_of(one, size) for name, one in chosen.items()}
    make = functools.partial(
        make_resources,
        data=data,
        cache=cache,
        diffusion=diffusion,
        device=device,
        train=functools.partial(train_victim, data=data, cache=cache, device=device) if train else None,
        known=known or (),
    )
    resources = make()
    with chosen_workers(jobs, ray, device) as workers:
        if plan:
            show_plan(measured, victims, ResultsFolder(folder), resources, workers)
            return
        distinct, needed = distinct_cells(measured), all_victims(victims)
        incomplete = measure_cells(distinct, needed, folder, make, workers=workers, retry=retry)
    results = ResultsFolder(folder)
    write = functools.partial(
        write_experiment, folder=folder, resources=resources, scale=size, restorer=restorer, report=say
    )
    for name, one in chosen.items():
        known_model = _diffusion_is_known(cells[name], results)
        shown = cells[name] if known_model else choose(one, diffusion=_recorded_model(results))
        incomplete += not _written(name, functools.partial(write, name, one, shown))
    if RESULTS in names:
        target = pages or folder / "pages"
        count = write_pages(target, [folder, *(records or [])], choose, model)
        out.print(f"wrote the pages in {target} from {count} records", highlight=False, soft_wrap=True)
    if incomplete:
        raise typer.Exit(FAILED)


def _diffusion_is_known(cells: Sequence[Cell], results: ResultsFolder) -> bool:
    """Return whether no cell uses a diffusion model, or a cell that uses one has a record with the given model."""
    diffusing = [cell for cell in cells if cell.diffuses]
    return not diffusing or any(results.record_of(cell) is not None for cell in diffusing)


def _recorded_model(results: ResultsFolder) -> str | None:
    """Return the digest of the diffusion model of the folder's records, or ``None``.

    With it, tables show these records even when the model is not available.
    """
    return diffusion_model_of(read_folders([results.path])) if results.cells.read() else None


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


def _written(name: str, write: Callable[[], list[Path]]) -> bool:
    """Write a table or figure from its records. Returns whether that succeeded."""
    try:
        written = write()
    except MaskRestoreError as error:  # e.g. matplotlib is missing; write the other tables
        say(f"{name}: {error}")
        return False
    out.print(f"wrote {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return True
