"""``maskrestore reproduce --plan``: the number of cells, what is missing, and the estimated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from rich.table import Table as Listing

from maskrestore.cli.terminal import out, say
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.plan import known_speeds, plan_line
from maskrestore.lab.runner.pool import available_cores, threads_of_a_worker
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.victims import VictimConfig

__all__ = ["all_victims", "distinct_cells", "show_plan"]


def distinct_cells(cells: Mapping[str, Sequence[Cell]]) -> list[Cell]:
    """Return the distinct cells of all tables and figures."""
    return list({cell.name: cell for ones in cells.values() for cell in ones}.values())


def all_victims(victims: Mapping[str, Sequence[VictimConfig]]) -> list[VictimConfig]:
    """Return the victims of all tables and figures."""
    return [one for ones in victims.values() for one in ones]


def show_plan(
    cells: Mapping[str, Sequence[Cell]],
    victims: Mapping[str, Sequence[VictimConfig]],
    results: ResultsFolder,
    resources: Resources,
    jobs: int,
) -> None:
    """Print the numbers of cells and of records, the victims to train, and the estimated time."""
    threads = threads_of_a_worker(jobs) if jobs > 1 else torch.get_num_threads()
    cores = min(jobs * threads, max(threads, available_cores()))  # if there are more processes than cores, they share
    speeds = known_speeds(results, resources)
    listing = Listing("name", "cells", "recorded", "failed", "victims to train", "hours left")
    for column in listing.columns[1:]:
        column.justify = "right"
    lines = {name: plan_line(ones, victims[name], results, resources, speeds) for name, ones in cells.items()}
    together = plan_line(distinct_cells(cells), all_victims(victims), results, resources, speeds)
    for name, line in {**lines, "together": together}.items():
        counts = (line.cells, line.recorded, line.failed, len(line.victims))
        listing.add_row(name, *map(str, counts), f"{line.core_hours / cores:.1f}")
    out.print(listing)
    each = f"{'each ' if jobs > 1 else ''}with {threads} thread{'s' if threads > 1 else ''}"
    say(f"hours: for {jobs} process{'es' if jobs > 1 else ''}, {each}, without the training of victims")
    if together.guessed:
        say(f"rough estimates, because there are no records from this machine: {', '.join(together.guessed)}")
    if together.victims:
        say(f"victims to train: {'; '.join(_named(victim) for victim in together.victims)}")


def _named(victim: VictimConfig) -> str:
    notes = [f"{victim.dataset} {victim.architecture}", victim.attack or "clean"]
    notes += [victim.mode] if victim.mode != "all-to-one" else []
    notes += [f"seed {victim.seed}"] if victim.seed else []
    return " ".join(notes)
