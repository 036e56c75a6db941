"""Purify the pictures of concurrent requests together: one thread for each model that runs the rounds of a pipeline.

Pictures join between two rounds and leave when they are settled, so a picture never waits for the end of another. The
result of each is the same bits as alone.

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
from dataclasses import dataclass

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


class Scheduler:
    """Takes pictures from any thread, and runs a pipeline in its own."""

    def __init__(
        self,
        name: str,
        pipeline: Callable[[], Pipeline],
        queue: FairQueue,
        limits: Limits,
        *,
        companions: float = 0.0,
        asked: Callable[[QueuedPicture], Classifier] | None = None,
    ) -> None:
        """pipeline: makes one; again after a failure inside it. limits: pictures in the pipeline at a time.

        companions: seconds that the first picture waits for others. asked: the classifier that is asked about a
        picture, if the pipeline asks about images that joined together in a thread of their own: then each joins alone.
        """
        self._asked = asked
        self._make, self._pipeline = pipeline, pipeline()
        self._queue, self._limits, self._companions = queue, limits, companions
        self._working: dict[int, QueuedPicture] = {}
        self._ids = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 0.05
        """For a picture, of late."""
        self._thread = threading.Thread(target=self._run, name=f"rounds of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self._queue)

    @property
    def working(self) -> int:
        """Pictures in the pipeline."""
        return len(self._working)

    def submit(self, tenant: str, images: Sequence[Tensor], deadline: float) -> list[Future[Purified]]:
        """Queue pictures ``(C, H, W)`` in [0, 1]; returns a future of each. To cancel it frees its place.

        deadline: by ``time.monotonic``. Raises OverloadedError, queueing none, if there is no place for all of
        them, or if so many are before them that they would not be ready in time.
        """
        now = time.monotonic()
        pictures = [QueuedPicture(image=one, tenant=tenant, deadline=deadline, accepted=now) for one in images]
        with self._changed:
            ahead = self._queue.ahead(tenant, len(pictures)) + len(self._working)
            expected = self._seconds * ahead
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
            self._changed.notify()
        self._thread.join()

    def _cancelled(self, future: Future[Purified], picture: QueuedPicture) -> None:
        if future.cancelled():
            with self._changed:
                self._queue.remove(picture)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (len(self._queue) or self._working or self._closing):
                    self._changed.wait()
                if not (len(self._queue) or self._working):
                    return
                if not self._working and self._companions:
                    end = time.monotonic() + self._companions
                    while (left := end - time.monotonic()) > 0 and len(self._queue) < self._limits.images:
                        self._changed.wait(left)
                joining = self._queue.take(list(self._working.values()), self._limits.images, self._limits.pixels)
            try:
                self._round(joining)
            except Exception as error:  # of a restorer, say: these pictures fail, the next ones have a new pipeline
                _LOG.exception("a round failed")
                for picture in {*self._working.values(), *joining}:
                    _finish(picture, error)
                self._working.clear()
                self._pipeline = self._make()

    def _round(self, joining: list[QueuedPicture]) -> None:
        self._admit(joining)
        gone = [number for number, picture in self._working.items() if picture.future.cancelled()]
        if gone:
            self._pipeline.drop(gone)
            for number in gone:
                del self._working[number]
        if not self._working:
            return
        for result in self._pipeline.step():
            assert isinstance(result.id, int)
            self._deliver(self._working.pop(result.id), result)

    def _admit(self, joining: list[QueuedPicture]) -> None:
        """Give pictures to the pipeline, those of one size together."""
        groups: dict[object, list[QueuedPicture]] = {}
        for picture in joining:
            groups.setdefault(picture if self._asked else picture.image.shape, []).append(picture)
        now = time.monotonic()
        for group in groups.values():
            numbers = [next(self._ids) for _ in group]
            classifier = self._asked(group[0]) if self._asked else None
            try:
                self._pipeline.submit(numbers, torch.stack([one.image for one in group]), classifier)
            except Exception as error:
                for picture in group:
                    _finish(picture, error)
                continue
            for number, picture in zip(numbers, group, strict=True):
                picture.begun = now
                self._working[number] = picture

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
