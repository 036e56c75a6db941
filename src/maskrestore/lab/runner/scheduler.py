"""Decides which task comes next: cells grouped by victim, and victims that must be trained first."""

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
"""Seconds before checking again on a victim that another process trains."""


class Scheduler:
    """Hands out tasks: first the cells whose victims are ready, a worker's own victim before any other, then training.

    A victim is trained by one worker, after the clean victim that it starts from. A worker without other work takes
    cells of a victim that other workers use.
    """

    def __init__(self, cells: Sequence[Cell], resources: Resources, victims: Sequence[VictimConfig] = ()) -> None:
        """victims: to be trained even without a cell. Without ``resources.train`` all victims count as ready."""
        self._cells: dict[str, deque[Cell]] = {}
        for cell in cells:
            self._cells.setdefault(cell.victim.digest(), deque()).append(cell)
        wanted = untrained_victims([*(cell.victim for cell in cells), *victims], resources)
        self._untrained = {config.digest(): config for config in wanted} if resources.train is not None else {}
        self._at: dict[int, str] = {}
        self._training: set[str] = set()
        self._not_before: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether there are cells that are not handed out, or victims that are not trained yet."""
        return bool(self._cells or self._untrained)

    def next(self, worker: int) -> Task | None:
        """The next task of a worker; ``None`` when it has to wait for others."""
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
        """A victim is ready now."""
        del self._untrained[victim.digest()]

    def busy(self, victim: VictimConfig) -> None:
        """Another process trains this victim: offer it again later."""
        self._training.discard(victim.digest())
        self._not_before[victim.digest()] = time.monotonic() + WAIT

    def lost(self, victim: VictimConfig) -> list[Cell]:
        """A victim cannot be trained: drop and return the cells that need it, or need a victim that starts from it."""
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
    """Each victim that is not trained, once, after the one that it starts from if that is not trained either."""
    missing = {one.digest(): one for one in victims if not resources.trained(one)}
    lineage = {one.digest(): one for config in missing.values() for one in _lineage(config)}
    return [one for digest, one in lineage.items() if digest in missing or not resources.trained(one)]


def _lineage(config: VictimConfig) -> list[VictimConfig]:
    """A victim after the clean one that its training needs: to start from, or to perturb images against."""
    return [config.clean(), config] if config.needs_clean else [config]
