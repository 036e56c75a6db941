"""What a reproduction still lacks: cells, victims, and roughly how long the rest takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrestore.lab.measure.detection import DetectionRecord, read_detection
from maskrestore.lab.measure.records import Record, read_record
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.paper.scales import estimated_seconds, measured_speeds
from maskrestore.lab.runner.executor import Bench, Laboratory, failure_path
from maskrestore.lab.runner.scheduler import untrained_victims
from maskrestore.lab.victims import VictimConfig
from maskrestore.runtime.environment import current_environment

__all__ = ["PlanLine", "known_speeds", "plan_line"]


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """A table or figure, or several together."""

    cells: int
    recorded: int
    failed: int
    """Of those without a record: tried, and failed."""
    victims: tuple[VictimConfig, ...]
    """Those that must be trained."""
    core_hours: float
    """Of one core for the cells that are left, without training."""
    guessed: tuple[str, ...]
    """Defenses among them whose speed has not been measured on this machine."""


def plan_line(
    cells: Sequence[Cell],
    victims: Sequence[VictimConfig],
    folder: Path,
    laboratory: Laboratory,
    speeds: Mapping[str, float],
) -> PlanLine:
    """What is left of some cells. victims: needed beside those of the cells. speeds: as of ``known_speeds``."""
    bench = Bench(folder=folder, laboratory=laboratory)
    left = [cell for cell in cells if not bench.kept(cell)]
    return PlanLine(
        cells=len(cells),
        recorded=len(cells) - len(left),
        failed=sum(failure_path(folder / cell.path).exists() for cell in left),
        victims=tuple(untrained_victims([*(cell.victim for cell in left), *victims], laboratory)),
        core_hours=estimated_seconds(left, speeds) / 3600,
        guessed=tuple(dict.fromkeys(one.variant.defense for one in left if one.variant.defense not in speeds)),
    )


def known_speeds(folder: Path, laboratory: Laboratory) -> dict[str, float]:
    """Core-seconds per image of the defenses that have records in ``folder`` from this machine. Raises DataError."""
    records: list[Record | DetectionRecord] = [read_record(path) for path in _records(folder / "cells")]
    records += [read_detection(path) for path in _records(folder / "detections")]
    return measured_speeds(records, current_environment(laboratory.device))


def _records(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if not path.name.endswith(".failed.json")]
