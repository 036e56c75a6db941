"""What the page shows besides the file of decisions: the last pictures, new decisions, and how models are now.

A single process keeps it to itself. Several workers have one in common.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Metric

from maskrestore.gateway.records import Decision, ModelStatus
from maskrestore.reporting.pictures import Picture

__all__ = ["Board", "Report", "merged"]

_MOST_DECISIONS = 256
"""Of those who listen, whoever is further behind misses some."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of itself now and then."""

    worker: Hashable
    """Its number or name."""
    models: Sequence[ModelStatus]
    counts: Sequence[Metric] = ()
    """What it has counted, if others cannot read that elsewhere."""


class Board:
    """In memory, and bounded. Safe for several threads."""

    def __init__(self, pictures: int) -> None:
        """pictures: those of so many decisions are kept."""
        self._most = pictures
        self._pictures: OrderedDict[str, Mapping[str, Picture]] = OrderedDict()
        self._decisions: deque[Decision] = deque(maxlen=_MOST_DECISIONS)
        self._count = 0
        self._changed = threading.Condition()
        self._reports: dict[Hashable, Report] = {}

    def add(self, decisions: Sequence[Decision], pictures: Mapping[str, Mapping[str, Picture]]) -> None:
        """Show decisions that were made. pictures: ``before`` and ``after`` of those that have any, by id."""
        with self._changed:
            self._decisions.extend(decisions)
            self._count += len(decisions)
            self._pictures.update(pictures)
            while len(self._pictures) > self._most:
                self._pictures.popitem(last=False)
            self._changed.notify_all()

    def pictures(self, decision: str) -> Mapping[str, Picture]:
        """Those of a decision, by id; none if they are not kept any more."""
        with self._changed:
            return self._pictures.get(decision, {})

    def pictured(self, decisions: Iterable[str]) -> set[str]:
        """Which of these decisions have pictures."""
        with self._changed:
            return {one for one in decisions if one in self._pictures}

    def since(self, number: int | None, seconds: float) -> tuple[int, list[Decision]]:
        """What was decided since the last call, whose number is given; waits so long for the first one.

        Returns the number for the next call. ``None`` begins, with no decision.
        """
        with self._changed:
            if number is None:
                return self._count, []
            self._changed.wait_for(lambda: self._count > number, seconds)
            new = min(self._count - number, len(self._decisions))
            return self._count, list(self._decisions)[len(self._decisions) - new :]

    def report(self, own: Report) -> list[Report]:
        """Say how a worker is; returns the last reports of the others."""
        with self._changed:
            self._reports[own.worker] = own
            return [one for one in self._reports.values() if one.worker != own.worker]

    def forget(self, worker: Hashable) -> None:
        """A worker has ended."""
        with self._changed:
            self._reports.pop(worker, None)


def merged(own: Sequence[ModelStatus], others: Sequence[Report]) -> list[ModelStatus]:
    """The models of one worker, with the queues of all; a model is ready if all say so."""
    return [_together(one, [each for other in others for each in other.models if each.name == one.name]) for one in own]


def _together(one: ModelStatus, others: Sequence[ModelStatus]) -> ModelStatus:
    reports = [one, *others]
    reasons = [each.reason for each in reports if each.reason is not None]
    more = {"waiting": sum(each.waiting for each in reports), "working": sum(each.working for each in reports)}
    return one.model_copy(update={"ready": not reasons, "reason": next(iter(reasons), None), **more})
