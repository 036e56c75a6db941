"""What the gateway does, whatever protocol asks for it: take pictures, purify them within limits, keep decisions."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from torch import Tensor

from maskrestore.classifiers.http_transport import TimeOver
from maskrestore.errors import ClassifierError, InvalidImageError, MaskRestoreError
from maskrestore.gateway.access import Access
from maskrestore.gateway.board import Board
from maskrestore.gateway.config import FailurePolicies, Policy
from maskrestore.gateway.decisions import DecisionStore, KeptDecision
from maskrestore.gateway.errors import OverloadedError, RefusedError, TimeOverError
from maskrestore.gateway.metrics import Metrics
from maskrestore.gateway.models import ShieldedModel
from maskrestore.gateway.outcomes import Caller, Outcome, outcome_of
from maskrestore.gateway.records import Decision
from maskrestore.gateway.scheduler import Purified
from maskrestore.gateway.tracing import Tracing
from maskrestore.reporting.pictures import thumbnail

__all__ = ["Service"]

_LOG = logging.getLogger(__name__)
_WAIT = 1.0
"""Seconds that a look at what other workers decided takes at most."""
_MAPS = ("hidden", "scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")


class Service:
    """Purifies pictures and keeps a decision of each."""

    def __init__(
        self,
        store: DecisionStore,
        metrics: Metrics,
        tracing: Tracing,
        *,
        keeps_pictures: bool,
        common: Board | None = None,
    ) -> None:
        """keeps_pictures: whether the store can show any. common: where the decisions of all workers appear."""
        self.store, self.metrics, self._tracing, self._common = store, metrics, tracing, common
        self._keeps_pictures = keeps_pictures
        self._listeners: set[asyncio.Queue[Decision]] = set()

    def listen(self) -> asyncio.Queue[Decision]:
        """A queue that gets each new decision; one that is not emptied loses the oldest."""
        queue: asyncio.Queue[Decision] = asyncio.Queue(256)
        self._listeners.add(queue)
        return queue

    def forget(self, queue: asyncio.Queue[Decision]) -> None:
        """End what ``listen`` began."""
        self._listeners.discard(queue)

    async def relay(self) -> None:
        """Tell those who listen here of the decisions of all workers; does not return."""
        assert self._common is not None
        number = None
        while True:
            try:
                number, decisions = await asyncio.to_thread(self._common.since, number, _WAIT)
            except (OSError, EOFError) as error:
                _LOG.warning("decisions of other workers are not known: %s", error)
                await asyncio.sleep(_WAIT)
            else:
                self._tell(decisions)

    def _tell(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            for queue in self._listeners:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(decision)

    async def purify(
        self, model: ShieldedModel, pictures: Sequence[Tensor], caller: Caller, access: Access, *, keep: bool = True
    ) -> list[Outcome]:
        """Purify pictures ``(C, H, W)`` and label them: an outcome for each, in their order.

        Each has a label, or an error that the policies of the model do not forgive. keep: whether decisions are kept;
        then they are before this returns. Raises RefusedError, and begins nothing, if limits forbid it.
        """
        policies = model.config.on_failure
        most = model.max_queries * len(pictures)
        reservation = await access.admit(caller.tenant, len(pictures), most)
        spent = most
        try:
            started, accepted = time.time(), time.monotonic()
            with self._tracing.span("purify", model=model.name, pictures=len(pictures)):
                found = await self._purified(model, pictures, caller)
                self._trace(found, started)
            labels = await self._plain_labels(model, pictures, found, policies, caller)
            seconds = time.monotonic() - accepted
            outcomes = [
                outcome_of(model, caller, place, picture=picture, found=one, label=label, times=(started, seconds))
                for place, (picture, one, label) in enumerate(zip(pictures, found, labels, strict=True))
            ]
            spent = sum(one.decision.queries or 0 for one in outcomes)
        except OverloadedError:
            spent = 0  # nothing was asked
            raise
        finally:
            await access.settle(reservation, spent)
        if keep:
            await self._keep(outcomes, pictures, {caller.tenant: spent})
        return outcomes

    def _trace(self, found: Sequence[Purified | Exception], started: float) -> None:
        """Spans of what became of each picture."""
        for place, one in enumerate(found):
            if isinstance(one, Purified):
                self._tracing.past("queue", started, one.waited, place=place)
                queries = int(one.purification.queries[0])
                self._tracing.past("rounds", started + one.waited, one.worked, place=place, queries=queries)

    async def _purified(
        self, model: ShieldedModel, pictures: Sequence[Tensor], caller: Caller
    ) -> list[Purified | Exception]:
        """A result or an error for each picture. Raises OverloadedError, for a model that fails closed then."""
        deadline = caller.deadline
        if model.config.on_failure.deadline == "fail-open":  # half of the time, for the plain label
            deadline -= min(model.config.timeout, (deadline - time.monotonic()) / 2)
        try:
            futures = model.scheduler.submit(caller.tenant, pictures, deadline)
        except OverloadedError as error:
            if model.config.on_failure.overload == "fail-closed":
                raise
            return [error] * len(pictures)
        why = await _until_done(futures, deadline, caller)
        return [one if (one := _result(future)) is not None else why for future in futures]

    async def _plain_labels(
        self,
        model: ShieldedModel,
        pictures: Sequence[Tensor],
        found: Sequence[Purified | Exception],
        policies: FailurePolicies,
        caller: Caller,
    ) -> list[int | None]:
        """The model's own labels of the pictures that failed and whose failure is forgiven; ``None`` for the others."""
        open_places = [
            place
            for place, one in enumerate(found)
            if isinstance(one, Exception) and _policy(policies, one) == "fail-open"
        ]
        labels: list[int | None] = [None] * len(found)
        if not open_places:
            return labels
        failed = [pictures[place] for place in open_places]
        ask = functools.partial(copy_context().run, model.plain_labels, failed, caller.deadline)
        asked = asyncio.get_running_loop().run_in_executor(model.threads, ask)
        try:
            answers = await asyncio.wait_for(asked, max(0.0, caller.deadline - time.monotonic()))
        except (MaskRestoreError, TimeoutError) as error:
            _LOG.warning("no plain label of %s either: %s", model.name, error)
            return labels
        for place, label in zip(open_places, answers, strict=True):
            labels[place] = label
        return labels

    async def _keep(self, outcomes: Sequence[Outcome], pictures: Sequence[Tensor], spent: Mapping[str, int]) -> None:
        """Keep decisions and tell of them. Raises RefusedError if they cannot be kept: nothing is answered then."""
        try:
            kept = await asyncio.to_thread(self._kept, outcomes, pictures, spent)
        except Exception:
            _LOG.exception("decisions cannot be kept")
            raise RefusedError(503, "the decision cannot be kept, so there is no answer", retry_after=10) from None
        for one in kept:
            self.metrics.decision(one.decision)
        if self._common is None:
            self._tell(one.shown for one in kept)

    def _kept(
        self, outcomes: Sequence[Outcome], pictures: Sequence[Tensor], spent: Mapping[str, int]
    ) -> list[KeptDecision]:
        kept = []
        for outcome, picture in zip(outcomes, pictures, strict=True):
            result = outcome.purification
            maps, shown = {}, {}
            if result is not None:
                maps = {name: one[0].numpy() for name in _MAPS if (one := getattr(result, name)) is not None}
                if self._keeps_pictures:
                    shown = {"before": thumbnail(picture), "after": thumbnail(result.images[0])}
            kept.append(KeptDecision(decision=outcome.decision, maps=maps, pictures=shown))
        self.store.add(kept, spent)
        return kept


async def _until_done(futures: Sequence[Future[Purified]], deadline: float, caller: Caller) -> RefusedError:
    """Wait until all are done, the time is over, or the client has gone; then nobody waits for the others.

    Returns the error of those that are not done.
    """
    all_done = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    all_done.add_done_callback(lambda one: one.cancelled() or one.exception())  # else asyncio complains of it
    gone = None if caller.gone is None else asyncio.ensure_future(caller.gone())
    waited: set[asyncio.Future[Any]] = {all_done} if gone is None else {all_done, gone}
    try:
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if gone is not None and gone.done():
            return RefusedError(499, "the client went away")
        return TimeOverError()
    finally:
        all_done.cancel()
        for future in futures:
            future.cancel()
        if gone is not None:
            gone.cancel()


def _result(future: Future[Purified]) -> Purified | Exception | None:
    """``None`` if it was given up."""
    if future.cancelled() or not future.done():
        return None
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, TimeOver):
        return TimeOverError()
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _policy(policies: FailurePolicies, error: Exception) -> Policy:
    match error:
        case OverloadedError():
            return policies.overload
        case TimeOverError():
            return policies.deadline
        case RefusedError() | InvalidImageError():
            return "fail-closed"
        case ClassifierError():
            return policies.upstream
    return policies.defense
