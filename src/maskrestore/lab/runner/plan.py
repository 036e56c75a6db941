"""The remaining work of a reproduction: cells, victims and the estimated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.measure.records import Record
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.paper.scales import estimated_seconds, measured_speeds
from maskrestore.lab.runner.executor import Executor
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.scheduler import untrained_victims
from maskrestore.lab.victims import VictimConfig
from maskrestore.runtime.environment import current_environment

__all__ = ["PlanLine", "known_speeds", "plan_line"]


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """The remaining work of a table or figure, or of several."""

    cells: int
    """Number of cells."""
    recorded: int
    """Number of cells with a record."""
    failed: int
    """Number of cells without a record that failed before."""
    victims: tuple[VictimConfig, ...]
    """The victims to train."""
    core_hours: float
    """Estimated hours of one core for the remaining cells, without training."""
    guessed: tuple[str, ...]
    """Defenses of the remaining cells whose speed has not been measured on this machine."""


def plan_line(
    cells: Sequence[Cell],
    victims: Sequence[VictimConfig],
    results: ResultsFolder,
    resources: Resources,
    speeds: Mapping[str, float],
) -> PlanLine:
    """Return the remaining work of ``cells``. victims: needed in addition. speeds: see ``known_speeds``."""
    executor = Executor(results=results, resources=resources)
    left = [cell for cell in cells if not executor.kept(cell)]
    return PlanLine(
        cells=len(cells),
        recorded=len(cells) - len(left),
        failed=sum(results.failures.get(cell.name) is not None for cell in left),
        victims=tuple(untrained_victims([*(cell.victim for cell in left), *victims], resources)),
        core_hours=estimated_seconds(left, speeds) / 3600,
        guessed=tuple(dict.fromkeys(one.variant.defense for one in left if one.variant.defense not in speeds)),
    )


def known_speeds(results: ResultsFolder, resources: Resources) -> dict[str, float]:
    """Return core-seconds per image, by name, of the defenses with records from this hardware.

    Raises DataError if a file of records is broken.
    """
    records: list[Record | DetectionRecord] = [*results.cells.read().values(), *results.detections.read().values()]
    return measured_speeds(records, current_environment(resources.device))
