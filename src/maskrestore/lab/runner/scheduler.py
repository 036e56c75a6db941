"""Schedule tasks: cells grouped by victim, and the victims that must be trained first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.executor import Task
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.victims import VictimConfig

__all__ = ["WAIT", "Scheduler", "untrained_victims"]

WAIT = 5.0
"""Seconds between checks of a victim that another program is training."""


class Scheduler:
    """Assigns tasks to workers in this order:

    1. cells of the victim that the worker has loaded,
    2. cells of a trained victim that no other worker uses,
    3. training of a victim, after the clean one that it starts from,
    4. cells of a victim that other workers use.
    """

    def __init__(self, cells: Sequence[Cell], resources: Resources, victims: Sequence[VictimConfig] = ()) -> None:
        """victims: to train even if no cell needs them. Without ``resources.train`` all victims count as trained."""
        self._cells: dict[str, deque[Cell]] = {}
        for cell in cells:
            self._cells.setdefault(cell.victim.digest(), deque()).append(cell)
        wanted = untrained_victims([*(cell.victim for cell in cells), *victims], resources)
        self._untrained = {config.digest(): config for config in wanted} if resources.train is not None else {}
        self._at: dict[int, str] = {}
        self._training: set[str] = set()
        self._not_before: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Return whether there are cells that are not assigned, or victims that are not trained."""
        return bool(self._cells or self._untrained)

    @property
    def tasks(self) -> int:
        """The number of cells that are not assigned and of victims that are not trained."""
        return sum(map(len, self._cells.values())) + len(self._untrained)

    def next(self, worker: int) -> Task | None:
        """Return the next task of a worker, or ``None`` when it must wait for others."""
        ready = [digest for digest in self._cells if digest not in self._untrained]
        if self._at.get(worker) in ready:
            return self._cell(worker, self._at[worker])
        others = {digest for one, digest in self._at.items() if one != worker}
        for digest in ready:
            if digest not in others:
                return self._cell(worker, digest)
        if (victim := self._next_victim()) is not None:
            self._training.add(victim.digest())
            return victim
        return self._cell(worker, max(ready, key=lambda digest: len(self._cells[digest]))) if ready else None

    def trained(self, victim: VictimConfig) -> None:
        """Mark a victim as trained."""
        del self._untrained[victim.digest()]

    def busy(self, victim: VictimConfig) -> None:
        """Note that another program is training this victim. It is tried again after ``WAIT`` seconds."""
        self._training.discard(victim.digest())
        self._not_before[victim.digest()] = time.monotonic() + WAIT

    def lost(self, victim: VictimConfig) -> list[Cell]:
        """Remove a victim that cannot be trained, with the victims that start from it. Returns their cells."""
        gone = [one for one in self._untrained.values() if victim in _lineage(one)]
        for one in gone:
            del self._untrained[one.digest()]
        return [cell for one in gone for cell in self._cells.pop(one.digest(), ())]

    def _cell(self, worker: int, digest: str) -> Cell:
        self._at[worker] = digest
        group = self._cells[digest]
        cell = group.popleft()
        if not group:
            del self._cells[digest]
        return cell

    def _next_victim(self) -> VictimConfig | None:
        now = time.monotonic()
        for digest, config in self._untrained.items():
            waits = digest in self._training or self._not_before.get(digest, now) > now
            if not waits and all(one == config or one.digest() not in self._untrained for one in _lineage(config)):
                return config
        return None


def untrained_victims(victims: Sequence[VictimConfig], resources: Resources) -> list[VictimConfig]:
    """Return each victim that is not trained, once, after the clean victim that its training needs."""
    missing = {one.digest(): one for one in victims if not resources.trained(one)}
    lineage = {one.digest(): one for config in missing.values() for one in _lineage(config)}
    return [one for digest, one in lineage.items() if digest in missing or not resources.trained(one)]


def _lineage(config: VictimConfig) -> list[VictimConfig]:
    """Return the victim, preceded by the clean one that its training needs (to start from or to perturb against)."""
    return [config.clean(), config] if config.needs_clean else [config]
