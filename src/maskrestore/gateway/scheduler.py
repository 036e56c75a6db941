"""Purify the pictures of concurrent requests together: threads of each model run the rounds of pipelines.

Pictures join between two rounds and leave when they are settled, so a picture never waits for the end of another. The
result of each is the same bits as alone. While one pipeline asks a model in this process, which leaves cores idle, the
other one restores.

**What a slow upstream does to others.** It is asked about each picture in a thread of its own (``asked``), and no
picture gets more than half of the connections. So a picture whose answers are late, or that waits to ask again, holds
no other while connections are free; two such pictures can take all of them, until their deadline. Pictures of other
models have another thread and other connections. A model in this process answers all questions of a round at once.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskrestore.defense.batching import Limits
from maskrestore.defense.pipeline import Pipeline
from maskrestore.gateway.errors import OverloadedError
from maskrestore.gateway.queues import FairQueue, QueuedPicture
from maskrestore.types import Classifier, Purification, StreamResult

__all__ = ["Purified", "Scheduler"]

_WEIGHT_OF_LAST = 0.1
"""Of the last picture in the running mean of the seconds for a picture."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Purified:
    """The result of a picture."""

    purification: Purification
    """Of a batch of one."""
    waited: float
    """Seconds in the queue."""
    worked: float
    """Seconds from its first round to its last."""


@dataclass(eq=False, kw_only=True)
class _Line:
    """A pipeline and the pictures in it, by their numbers."""

    pipeline: Pipeline
    working: dict[int, QueuedPicture] = field(default_factory=dict)


class Scheduler:
    """Takes pictures from any thread, and runs pipelines in its own."""

    def __init__(
        self,
        name: str,
        pipeline: Callable[[], Pipeline],
        queue: FairQueue,
        limits: Limits,
        *,
        asked: Callable[[QueuedPicture], Classifier] | None = None,
        lines: int = 1,
    ) -> None:
        """pipeline: makes one; again after a failure inside it. limits: pictures in all pipelines at a time.

        asked: the classifier that is asked about a picture, if the pipeline asks about images that joined together in a
        thread of their own: then each joins alone.
        lines: pipelines, each with a thread.
        """
        self._asked = asked
        self._make = pipeline
        self._queue, self._limits = queue, limits
        self._lines = [_Line(pipeline=pipeline()) for _ in range(lines)]
        self._ids = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 0.05
        """For a picture, of late."""
        self._threads = [
            threading.Thread(target=self._run, args=(line,), name=f"rounds of {name}", daemon=True)
            for line in self._lines
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self._queue)

    @property
    def working(self) -> int:
        """Pictures in the pipelines."""
        return sum(len(line.working) for line in self._lines)

    def submit(self, tenant: str, images: Sequence[Tensor], deadline: float) -> list[Future[Purified]]:
        """Queue pictures ``(C, H, W)`` in [0, 1]; returns a future of each. To cancel it frees its place.

        deadline: by ``time.monotonic``. Raises OverloadedError, queueing none, if there is no place for all of
        them, or if so many are before them that they would not be ready in time.
        """
        now = time.monotonic()
        pictures = [QueuedPicture(image=one, tenant=tenant, deadline=deadline, accepted=now) for one in images]
        with self._changed:
            ahead = self._queue.ahead(tenant, len(pictures)) + self.working
            expected = self._seconds * ahead / len(self._lines)
            # What would not be ready in time would only keep others from being so.
            late = ahead > len(pictures) and expected > deadline - now
            if late or self._closing or not self._queue.add(pictures):
                wait = max(1, math.ceil(expected - (deadline - now) if late else expected))
                raise OverloadedError(f"{ahead - len(pictures)} pictures are before these; try again in {wait} s", wait)
            self._changed.notify()
        for picture in pictures:
            picture.future.add_done_callback(lambda future, picture=picture: self._cancelled(future, picture))  # type: ignore[misc]
        return [picture.future for picture in pictures]

    def close(self) -> None:
        """Take no more pictures, finish those that are here, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _cancelled(self, future: Future[Purified], picture: QueuedPicture) -> None:
        if future.cancelled():
            with self._changed:
                self._queue.remove(picture)

    def _run(self, line: _Line) -> None:
        while True:
            joining = self._next(line)
            if not line.working:
                return
            try:
                self._round(line, joining)
            except Exception as error:  # of a restorer, say: these pictures fail, the next ones have a new pipeline
                _LOG.exception("a round failed")
                for picture in self._remove(line, list(line.working)):
                    _finish(picture, error)
                line.pipeline = self._make()

    def _next(self, line: _Line) -> dict[int, QueuedPicture]:
        """The pictures that join a line, which has them now. Waits if the line has none, until no more will come."""
        with self._changed:
            while True:
                working = [picture for one in self._lines for picture in one.working.values()]
                taken = self._queue.take(working, self._limits.images, self._limits.pixels)
                joining = {next(self._ids): picture for picture in taken}
                line.working |= joining
                if line.working or (self._closing and not len(self._queue)):
                    return joining
                self._changed.wait()

    def _round(self, line: _Line, joining: dict[int, QueuedPicture]) -> None:
        self._admit(line, joining)
        gone = [number for number, picture in line.working.items() if picture.future.cancelled()]
        if gone:
            line.pipeline.drop(gone)
            self._remove(line, gone)
        if not line.working:
            return
        results = line.pipeline.step()
        numbers = [result.id for result in results if isinstance(result.id, int)]
        for picture, result in zip(self._remove(line, numbers), results, strict=True):
            self._deliver(picture, result)

    def _remove(self, line: _Line, numbers: Sequence[int]) -> list[QueuedPicture]:
        """Take pictures out of a line, so that others have their places."""
        with self._changed:
            self._changed.notify_all()
            return [line.working.pop(number) for number in numbers]

    def _admit(self, line: _Line, joining: dict[int, QueuedPicture]) -> None:
        """Give pictures to the pipeline, those of one size together."""
        groups: dict[object, list[int]] = {}
        for number, picture in joining.items():
            picture.begun = time.monotonic()
            groups.setdefault(picture if self._asked else picture.image.shape, []).append(number)
        for numbers in groups.values():
            classifier = self._asked(joining[numbers[0]]) if self._asked else None
            images = torch.stack([joining[number].image for number in numbers])
            try:
                line.pipeline.submit(numbers, images, classifier)
            except Exception as error:
                for picture in self._remove(line, numbers):
                    _finish(picture, error)

    def _deliver(self, picture: QueuedPicture, result: StreamResult) -> None:
        now = time.monotonic()
        if result.result is None:
            assert result.error is not None
            _finish(picture, result.error)
            return
        self._seconds += _WEIGHT_OF_LAST * (result.seconds - self._seconds)
        waited, worked = picture.begun - picture.accepted, now - picture.begun
        _finish(picture, Purified(purification=result.result, waited=waited, worked=worked))


def _finish(picture: QueuedPicture, outcome: Purified | Exception) -> None:
    if picture.future.done() or not picture.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        picture.future.set_exception(outcome)
    else:
        picture.future.set_result(outcome)
