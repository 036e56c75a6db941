"""The upstream as the defense asks it: again with growing waits where that may help, and not while it is down."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator

import torch
from circuitbreaker import CircuitBreaker
from torch import Tensor

from maskrestore.classifiers import HttpClassifier
from maskrestore.classifiers.retrying import Waits, longer
from maskrestore.errors import RetryLater

__all__ = ["PatientUpstream"]


class PatientUpstream:
    """Asks a server, and asks again where the answer is "later".

    Waits grow at random (full jitter), or are as long as the server says. The questions of a round
    wait together, for ``patience`` seconds at most and never beyond the time until which somebody waits for an answer.
    If the server cannot be reached, times out or says "later" so often in a row as the breaker allows, nothing is asked
    for a while.

    It is asked by several threads, each about one picture and those made of it. None of them gets more than half of the
    connections, so that late answers about one picture leave some for the others.
    """

    def __init__(self, server: HttpClassifier, *, patience: float, failures: int, seconds: float) -> None:
        """failures, seconds: of the breaker."""
        self.server = server
        self.until = float("inf")
        """When nobody waits for an answer any more, by ``time.monotonic``."""
        self.retries = 0
        """Questions that were asked again."""
        self._at_a_time = max(1, server.concurrency // 2)
        self._patience = patience
        self._breaker = CircuitBreaker(failures, seconds, RetryLater)

    @property
    def is_left_alone(self) -> bool:
        """Whether the breaker is open."""
        return bool(self._breaker.opened)

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1]. Raises what the server's adapter raises."""
        labels = torch.zeros(len(images), dtype=torch.int64)
        for place, answer in self.answers(iter(images.split(1))):
            if isinstance(answer, Exception):
                raise answer
            labels[place] = answer[0]
        return labels

    def answers(self, pictures: Iterable[Tensor]) -> Iterator[tuple[int, Tensor | Exception]]:
        """Ask about pictures ``(1, C, H, W)``; see :class:`~maskrestore.types.StreamingClassifier`."""
        waits = Waits(self._patience)
        waiting = dict(enumerate(pictures))
        while waiting:
            if self.is_left_alone:
                left = max(1.0, float(self._breaker.open_remaining))
                for place in waiting:
                    yield place, RetryLater(left, f"the upstream failed too often, and is left alone for {left:.0f} s")
                return
            later: dict[int, RetryLater] = {}
            places = list(waiting)
            for number, answer in self.server.answers(waiting.values(), at_a_time=self._at_a_time):
                place = places[number]
                noted = self._noted(answer)
                if isinstance(noted, RetryLater):
                    later[place] = noted
                else:
                    yield place, noted
            if not later:
                return
            seconds = waits.seconds(functools.reduce(longer, later.values()))
            if seconds is None or time.monotonic() + seconds > self.until:
                yield from later.items()
                return
            waits.wait(seconds)
            waiting = {place: waiting[place] for place in later}
            self.retries += len(waiting)

    def _noted(self, answer: Tensor | Exception) -> Tensor | Exception:
        """The answer, which the breaker has counted."""

        def outcome() -> Tensor:
            if isinstance(answer, Exception):
                raise answer
            return answer

        try:
            return self._breaker.call(outcome)  # type: ignore[no-any-return]
        except Exception as error:
            return error
