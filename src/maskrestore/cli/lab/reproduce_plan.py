"""``maskrestore reproduce --plan``: the number of cells, what is missing, and the estimated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table as Listing

from maskrestore.cli.lab.reproduce_workers import Workers
from maskrestore.cli.terminal import out, say
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.plan import known_speeds, plan_line
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.victims import VictimConfig
from maskrestore.runtime.words import counted

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
    workers: Workers,
) -> None:
    """Print the numbers of cells and of records, the victims to train, and the estimated time."""
    speeds = known_speeds(results, resources)
    listing = Listing("name", "cells", "recorded", "failed", "victims to train", "hours left")
    for column in listing.columns[1:]:
        column.justify = "right"
    lines = {name: plan_line(ones, victims[name], results, resources, speeds) for name, ones in cells.items()}
    together = plan_line(distinct_cells(cells), all_victims(victims), results, resources, speeds)
    for name, line in {**lines, "together": together}.items():
        counts = (line.cells, line.recorded, line.failed, len(line.victims))
        listing.add_row(name, *map(str, counts), f"{line.core_hours / workers.cores:.1f}")
    out.print(listing)
    kind = "process" if workers.share is None else "worker"
    several = "processes" if workers.share is None else "workers"
    threads = counted(workers.threads, "thread")
    shared = f"{workers.count} {several}, each with {threads}" if workers.count > 1 else f"1 {kind}, with {threads}"
    say(f"hours: for {shared}, without the training of victims")
    if together.guessed:
        say(f"rough estimates, because there are no records from this machine: {', '.join(together.guessed)}")
    if together.victims:
        say(f"victims to train: {'; '.join(_named(victim) for victim in together.victims)}")


def _named(victim: VictimConfig) -> str:
    notes = [f"{victim.dataset} {victim.architecture}", victim.attack or "clean"]
    notes += [victim.mode] if victim.mode != "all-to-one" else []
    notes += [f"seed {victim.seed}"] if victim.seed else []
    return " ".join(notes)
