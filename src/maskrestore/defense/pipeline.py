"""Run the stages of the paper for images that join and leave at any time.

A round is one call of the restorer and one of the classifier. A cohort is a batch of images that joined together. All
cohorts share the calls of a round.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskrestore.defense.agreement import Agreement
from maskrestore.defense.asking import Asker
from maskrestore.defense.composition import purify_cohort
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.oracle import Ask, Oracle, Request, Restore, Rounds
from maskrestore.defense.state import State
from maskrestore.defense.streams import Key, Stream
from maskrestore.errors import ClassifierError, ConfigError
from maskrestore.imaging.inputs import as_batch
from maskrestore.mae.choice import restorer_for
from maskrestore.runtime.threads import map_on_cores
from maskrestore.types import Classifier, Restorer, RestorerChoice, StreamResult

__all__ = ["Pipeline"]

_JOIN = 0.02
"""Seconds that a step waits at most for answers that are asked for apart: then further images can join."""


@dataclass(eq=False)
class _Cohort:
    """Images of one size that joined together, and the stage that they wait in."""

    ids: Sequence[Hashable]
    state: State
    rounds: Rounds[None]
    classifier: Classifier | None
    """Asked about them; ``None`` for that of the pipeline."""
    request: Request | None = None
    """The request that they wait for; ``None`` at the end."""
    gone: Tensor = field(init=False)
    """``(B,)`` bool: images whose results were returned."""
    errors: dict[int, Exception] = field(default_factory=dict)
    """By row, of the images that the classifier failed at. The stages do not know of it: they go on with the label of
    the original image for each question, which is not sent."""

    flying: Future[tuple[Tensor, dict[int, Exception]]] | None = None
    """The answer to its question that is asked apart."""

    def __post_init__(self) -> None:
        self.gone = torch.zeros(len(self.ids), dtype=torch.bool)

    def advance(self, answer: Tensor | None) -> None:
        """Run to the next request. answer: that of the last request, or ``None`` at the start."""
        if self.errors and isinstance(self.request, Ask) and answer is not None:
            lost = torch.isin(self.request.rows, torch.tensor(list(self.errors)))
            answer = torch.where(lost, self.state.original[self.request.rows], answer)
        try:
            self.request = next(self.rounds) if answer is None else self.rounds.send(answer)
        except StopIteration:
            self.request = None
        if self.errors:
            self.state.settled[list(self.errors)] = True


class Pipeline:
    """Purifies images that join at any time and leave when they are settled. Not safe for use by several threads.

    The result of an image is bit-identical regardless of batch composition if those of the restorer and the classifier
    are. ``MAERestorer``, ``ModuleClassifier`` and ``OnnxClassifier`` satisfy this.
    """

    def __init__(
        self,
        restorer: Restorer | RestorerChoice,
        config: BDMAEConfig,
        asker: Asker,
        *,
        key: Key,
        masked_pixels: int,
        apart: Executor | None = None,
    ) -> None:
        """asker: asks the classifier. key: of the random masks. masked_pixels: as for :func:`score`.

        apart: asks for each cohort in a thread of its own, so that a late answer holds the images that joined together
        and no others. ``None``: all cohorts are asked about together.
        """
        self._apart = apart
        self._restorer, self._config, self._asker = restorer, config, asker
        self._device = torch.device(getattr(restorer, "device", "cpu"))
        self._stream_of = functools.partial(Stream, key)
        self._masked_pixels = masked_pixels
        self._cohorts: list[_Cohort] = []
        self._agreement = Agreement()

    def __len__(self) -> int:
        """Number of images that have joined and not left."""
        return sum(int((~cohort.gone).sum()) for cohort in self._cohorts)

    def submit(self, ids: Sequence[Hashable], images: object, classifier: Classifier | None = None) -> None:
        """Add ``B`` images of one size. Their first round is the next step.

        ids: ``B`` ids for their results. images: whatever :func:`maskrestore.imaging.inputs.as_batch` takes.
        classifier: asked about these images, in a pipeline that asks about images apart; ``None``: its own.

        Raises InvalidImageError, ConfigError for another number of ids and for a classifier where all images are asked
        about together, and what the restorer raises for images that it cannot take.
        """
        if classifier is not None and self._apart is None:
            raise ConfigError("images have a classifier of their own only if they are asked about apart")
        images = as_batch(images)
        if len(ids) != len(images):
            raise ConfigError(f"expected an id for each of {len(images)} images, got {len(ids)} ids")
        # Hashing takes a millisecond for an image of 224 x 224. That only matters beside a GPU.
        on_cpu = self._device.type == "cpu"
        streams = list(map(self._stream_of, images)) if on_cpu else map_on_cores(self._stream_of, images)
        oracle = Oracle(len(images), self._config.max_queries)
        height, width = images.shape[-2:]
        restorer = restorer_for(self._restorer, (height, width))
        state = State(images.to(self._device), streams, restorer, oracle)
        cohort = _Cohort(ids, state, purify_cohort(state, self._config, masked_pixels=self._masked_pixels), classifier)
        cohort.advance(None)
        self._cohorts.append(cohort)

    def drop(self, ids: Iterable[Hashable]) -> None:
        """Forget images that have not left: nobody waits for them. They get no result, and ask no further question."""
        unwanted = set(ids)
        for cohort in list(self._cohorts):
            rows = [row for row, one in enumerate(cohort.ids) if one in unwanted and not cohort.gone[row]]
            cohort.errors |= dict.fromkeys(rows, ClassifierError("dropped"))
            cohort.gone[rows] = True
            cohort.state.settled[rows] = True
            if cohort.gone.all():
                cohort.rounds.close()
                self._cohorts.remove(cohort)

    def step(self) -> list[StreamResult]:
        """Run one round for every image. Returns the results of images that it settled, and the errors of failed ones.

        Images that are asked about apart wait for their answers meanwhile; then a step may settle none.

        An image that the classifier fails at gets the error; the answers about the others are kept. If a call of the
        restorer raises, it is repeated for each cohort alone, and the images of a cohort at which it fails start anew,
        each alone.
        """
        started = time.perf_counter()
        restoring = self._waiting(Restore)
        failed = self._advance(restoring, self._restored)
        if self._apart is None:
            failed += self._advance(self._waiting(Ask), self._asked)
        else:
            failed += self._ask_apart(self._apart, wait_for_one=not restoring)
        share = (time.perf_counter() - started) / max(1, len(self))
        for cohort in self._cohorts:
            cohort.state.seconds[~cohort.gone] += share
        return failed + [result for cohort in list(self._cohorts) for result in self._leaving(cohort)]

    def _waiting(self, kind: type[Request]) -> list[_Cohort]:
        """The cohorts that wait for the answer to a request of this kind."""
        return [cohort for cohort in self._cohorts if isinstance(cohort.request, kind)]

    def _ask_apart(self, pool: Executor, *, wait_for_one: bool) -> list[StreamResult]:
        """Ask for each cohort that is not asked about yet, and go on with those whose answers are there."""
        asking = self._waiting(Ask)
        for cohort in asking:
            if cohort.flying is None and isinstance(cohort.request, Ask):
                owners, pictures = cohort.request.rows.tolist(), cohort.request.pictures
                cohort.flying = pool.submit(
                    self._asker.twin(cohort.classifier).ask, pictures, owners, set(cohort.errors)
                )
        flying = [cohort.flying for cohort in asking if cohort.flying is not None]
        if wait_for_one:
            wait(flying, timeout=_JOIN, return_when=FIRST_COMPLETED)
        landed = [cohort for cohort in asking if cohort.flying is not None and cohort.flying.done()]
        return [one for cohort in landed for one in self._advance([cohort], self._landed)]

    def _landed(self, group: list[_Cohort]) -> list[Tensor]:
        (cohort,) = group
        assert cohort.flying is not None
        answer, cohort.flying = cohort.flying, None
        labels, errors = answer.result()
        cohort.errors |= errors
        return [labels]

    def _advance(self, cohorts: list[_Cohort], answer: Callable[[list[_Cohort]], list[Tensor]]) -> list[StreamResult]:
        """Answer the requests of cohorts together or, if that raises, one by one. Returns the errors."""
        failed: list[StreamResult] = []
        pending = _by_size(cohorts)
        while pending:
            group = pending.pop(0)
            try:
                answers = answer(group)
            except Exception as error:
                if len(group) > 1:
                    pending += [[cohort] for cohort in group]
                else:
                    failed += self._fail(group[0], error)
                continue
            for cohort, one in zip(group, answers, strict=True):
                try:
                    cohort.advance(one)
                except Exception as error:
                    failed += self._fail(cohort, error)
        return failed

    def _restored(self, group: list[_Cohort]) -> list[Tensor]:
        requests = [cohort.request for cohort in group if isinstance(cohort.request, Restore)]
        restorer = group[0].state.restorer  # one for all, since a group has images of one size
        join = getattr(type(requests[0].prepared), "concatenate", None)
        if len(requests) == 1 or join is None:
            return [restorer.restore(one.prepared, one.hidden) for one in requests]
        owners, masks = zip(*(_flat(one.hidden) for one in requests), strict=True)
        prepared = join([one.prepared[owner] for one, owner in zip(requests, owners, strict=True)])
        restored = restorer.restore(prepared, torch.cat(masks)).split([len(flat) for flat in masks])
        return [part.unflatten(0, one.hidden.shape[:-2]) for one, part in zip(requests, restored, strict=True)]

    def _asked(self, group: list[_Cohort]) -> list[Tensor]:
        requests = [cohort.request for cohort in group if isinstance(cohort.request, Ask)]
        pictures = [one.pictures for one in requests]
        together = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
        images: list[tuple[_Cohort, int]] = []
        owners: list[int] = []
        for cohort, one in zip(group, requests, strict=True):
            owners += [len(images) + row for row in one.rows.tolist()]
            images += [(cohort, row) for row in range(len(cohort.ids))]
        lost = {number for number, (cohort, row) in enumerate(images) if row in cohort.errors}
        labels, errors = self._asker.ask(together, owners, lost)
        for number, error in errors.items():
            cohort, row = images[number]
            cohort.errors[row] = error
        return list(labels.split([len(some) for some in pictures]))

    def _leaving(self, cohort: _Cohort) -> list[StreamResult]:
        """Results of the settled images of a cohort that have not left yet; at its end, of all that have not."""
        ended = cohort.request is None
        if ended:
            self._cohorts.remove(cohort)
        rows = (~cohort.gone & (cohort.state.settled | ended)).nonzero().squeeze(1)
        if not len(rows):
            return []
        cohort.gone[rows] = True
        if not ended and cohort.gone.all():
            cohort.rounds.close()
            self._cohorts.remove(cohort)
        result = cohort.state.result(rows)
        if not self._config.restoration.single_query:  # else there is no label of the image as it came
            labels = result.original_labels.tolist()
            for row, stream, label in zip(rows.tolist(), cohort.state.streams(rows), labels, strict=True):
                if row not in cohort.errors:
                    self._agreement.check(stream.content, label)
        return [
            StreamResult(id=cohort.ids[row], error=cohort.errors[row])
            if row in cohort.errors
            else StreamResult(id=cohort.ids[row], result=result.select(slice(place, place + 1)), seconds=seconds)
            for place, (row, seconds) in enumerate(zip(rows.tolist(), cohort.state.seconds[rows].tolist(), strict=True))
        ]

    def _fail(self, cohort: _Cohort, error: Exception) -> list[StreamResult]:
        """Remove a cohort; its open images start anew, each alone. An image that was alone gets the error."""
        settled = self._leaving(cohort)  # its request is still open, so this returns settled images only
        cohort.rounds.close()
        if cohort in self._cohorts:
            self._cohorts.remove(cohort)
        lost = (~cohort.gone).nonzero().squeeze(1).tolist()
        if len(cohort.ids) == 1:
            return settled + [StreamResult(id=cohort.ids[row], error=error) for row in lost]
        for row in lost:
            self.submit([cohort.ids[row]], cohort.state.images[row], cohort.classifier)
        return settled


def _by_size(cohorts: list[_Cohort]) -> list[list[_Cohort]]:
    groups: dict[torch.Size, list[_Cohort]] = {}
    for cohort in cohorts:
        groups.setdefault(cohort.state.images.shape[1:], []).append(cohort)
    return list(groups.values())


def _flat(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """For masks ``(R, g, g)`` or ``(R, M, g, g)``: the row that each belongs to, ``(N,)``, and masks ``(N, g, g)``."""
    flat = hidden.reshape(-1, *hidden.shape[-2:])
    return torch.arange(len(hidden)).repeat_interleave(len(flat) // max(1, len(hidden))), flat
