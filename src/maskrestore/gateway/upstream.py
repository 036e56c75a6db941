"""The upstream as the defense asks it: again with growing waits where that may help, and not while it is down."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from circuitbreaker import CircuitBreaker
from torch import Tensor

from maskrestore.classifiers import HttpClassifier
from maskrestore.classifiers.http_transport import TimeOver
from maskrestore.classifiers.open_inference_messages import MessageTensor
from maskrestore.classifiers.retrying import Waits, longer
from maskrestore.errors import RetryLater

__all__ = ["PatientUpstream", "Questions"]

Answer = TypeVar("Answer")


class PatientUpstream:
    """A server, the breaker that leaves it alone while it is down, and how long a round waits for it.

    If the server cannot be reached, times out or says "later" so often in a row as the breaker allows, nothing is asked
    for a while.
    """

    def __init__(self, server: HttpClassifier, *, patience: float, failures: int, seconds: float) -> None:
        """patience: as in the configuration. failures, seconds: of the breaker."""
        self.server, self.patience = server, patience
        self.retries = 0
        """Questions that were asked again."""
        self._breaker = CircuitBreaker(failures, seconds, RetryLater)

    @property
    def left_alone(self) -> float:
        """Seconds for which nothing is asked, 0 if it may be."""
        return max(1.0, float(self._breaker.open_remaining)) if self._breaker.opened else 0.0

    def outputs(self, picture: Tensor, until: float) -> dict[str, MessageTensor]:
        """All outputs for a picture ``(1, C, H, W)``; asks again where the answer is "later", as for labels.

        until: as for :class:`Questions`. Raises what the server's adapter raises.
        """
        waits = Waits(self.patience)
        while True:
            if (later := self.later()) is not None:
                raise later
            try:
                found = self.server.outputs(picture, until=until)
            except TimeOver:
                raise
            except RetryLater as error:
                self.noted(error)
                wait = waits.seconds(error)
                if wait is None or time.monotonic() + wait > until:
                    raise
                waits.wait(wait)
                self.retries += 1
            else:
                self.noted(found)
                return found

    def later(self) -> RetryLater | None:
        """What is answered while nothing is asked."""
        seconds = self.left_alone
        told = f"the upstream failed too often, and is left alone for {seconds:.0f} s"
        return RetryLater(seconds, told) if seconds else None

    def noted(self, answer: Answer | Exception) -> Answer | Exception:
        """The answer, which the breaker has counted."""

        def outcome() -> Answer:
            if isinstance(answer, Exception):
                raise answer
            return answer

        try:
            return self._breaker.call(outcome)  # type: ignore[no-any-return]
        except Exception as error:
            return error


@dataclass(frozen=True)
class Questions:
    """Asks an upstream about one picture and those made of it, while somebody waits for the answers.

    Where the answer is "later" it asks again. Waits grow at random (full jitter), or are as long as the server says.
    The questions of a round wait together, for ``patience`` seconds at most. When the time is over, all requests end.

    Each picture is asked about in a thread of its own. None of them gets more than half of the connections, so that
    late answers about one picture leave some for the others.
    """

    upstream: PatientUpstream
    until: float = math.inf
    """When nobody waits for an answer any more, by ``time.monotonic``."""
    is_wanted: Callable[[], bool] = lambda: True
    """Whether somebody still waits: the client may have gone."""
    context: Context = field(default_factory=copy_context)
    """In which requests are sent."""

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
        upstream, waits = self.upstream, Waits(self.upstream.patience)
        asking: Iterator[tuple[int, Tensor]] = enumerate(pictures)
        while True:
            if (later := upstream.later()) is not None:
                yield from ((place, later) for place, _ in asking)
                return
            late: dict[int, tuple[Tensor, RetryLater]] = {}
            for place, picture, answer in self._asked(asking):
                if isinstance(answer, RetryLater):
                    late[place] = picture, answer
                else:
                    yield place, answer
            if not late:
                return
            wait = waits.seconds(functools.reduce(longer, (error for _, error in late.values())))
            if wait is None or not self.is_wanted() or time.monotonic() + wait > self.until:
                yield from ((place, error) for place, (_, error) in late.items())
                return
            waits.wait(wait)
            upstream.retries += len(late)
            asking = iter([(place, picture) for place, (picture, _) in late.items()])

    def _asked(self, asking: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor, Tensor | Exception]]:
        """Ask about pictures, which come with their places, once."""
        server = self.upstream.server
        sent: list[tuple[int, Tensor]] = []

        def pictures() -> Iterator[Tensor]:
            while self.is_wanted() and (taken := next(asking, None)) is not None:
                sent.append(taken)
                yield taken[1]

        at_a_time = max(1, server.concurrency // 2)
        for number, answer in server.answers(pictures(), at_a_time=at_a_time, until=self.until, context=self.context):
            # That a client wants its answer sooner is no failure of the upstream.
            yield *sent[number], answer if isinstance(answer, TimeOver) else self.upstream.noted(answer)
        for place, picture in asking:
            yield place, picture, TimeOver(None, "nobody waits for the answer any more")
