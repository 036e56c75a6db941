"""Measure the cells of ``maskrestore reproduce`` with a progress bar and messages."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from maskrestore.cli.lab.reproduce_workers import Workers
from maskrestore.cli.lab.train_victim import restoration
from maskrestore.cli.terminal import progress, say
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.executor import Outcome
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells, run_cells_in_processes, run_cells_on_ray
from maskrestore.lab.victims import TrainingProgress, VictimConfig, VictimData
from maskrestore.lab.victims import train_victim as train_network
from maskrestore.runtime.environment import current_environment

__all__ = ["measure_cells", "train_victim"]


def measure_cells(
    cells: Sequence[Cell],
    victims: Sequence[VictimConfig],
    folder: Path,
    make: Callable[[], Resources],
    *,
    workers: Workers,
    retry: bool,
) -> int:
    """Measure cells and train victims with a progress bar.

    Returns the number of cells that failed or whose victim is missing, plus the victims that could not be trained.
    """
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

        run: Callable[..., object]
        if workers.share is not None:
            run = functools.partial(run_cells_on_ray, make_resources=make, share=workers.share)
        elif workers.count == 1:
            run = functools.partial(run_cells, resources=make())
        else:
            run = functools.partial(run_cells_in_processes, make_resources=make, jobs=workers.count)
        run(cells, folder, victims=victims, retry=retry, report=report, progress=show)
    counts = Counter(outcome.state for outcome in done if isinstance(outcome.task, Cell))
    untrained = len(done) - counts.total()
    if cells:
        say(f"{', '.join(f'{count} {state}' for state, count in counts.items())} of {len(cells)} cells")
    _say_if_old([one.cell for one in done if one.state == "kept"], ResultsFolder(folder))
    if untrained:
        say(f"{untrained} victims that no cell needs could not be trained; run the same command to try again")
    if counts["missing"]:
        lacking = dict.fromkeys(one.cell.case.label for one in done if one.state == "missing")
        say(f"victims that are not trained (add --train): {'; '.join(lacking)}")
    if counts["failed"]:
        say("add --retry to measure failed cells again")
    return counts["missing"] + counts["failed"] + untrained


def _say_if_old(cells: Sequence[Cell], results: ResultsFolder) -> None:
    """Print how many records are from other revisions of the code: a cell's name does not depend on the code."""
    now = current_environment().commit
    records = [record for cell in cells if (record := results.record_of(cell)) is not None]
    old = Counter(commit for record in records if (commit := record.environment.commit) != now)
    if old:
        named = ", ".join(f"{commit} ({count})" for commit, count in old.most_common())
        say(f"kept records of other revisions: {named}; this is {now}. To measure a cell again, delete its line")


def train_victim(
    config: VictimConfig,
    report: Callable[[TrainingProgress], None],
    *,
    data: Path | None,
    cache: Path | None,
    device: str,
) -> object:
    """Train a victim unless it is in the cache."""
    return train_network(
        config,
        _images(config.dataset, data),
        cache=cache,
        report=lambda _, state, __: report(state),
        restoration=restoration(config, device),
        device=device,
    )


@functools.lru_cache(maxsize=1)  # decoding takes a minute, and a process often trains several victims in sequence
def _images(dataset: str, folder: Path | None) -> VictimData:
    return VictimData.load(dataset, folder)
