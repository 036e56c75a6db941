"""How the classifier is asked: a failure costs one image, an answer is kept, and a run does not fail for ever.

The classifier is one of three kinds:

- an adapter of a model gets all pictures of a round in one call. If that fails, it gets those of each image in a call;
- so does a function, but a slow one gets 32 pictures at a time, since the answers of a call that fails are lost. If a
  call fails, its pictures are sent one by one; if the function asks for time, so are all later ones;
- a classifier with a method ``answers`` (:class:`~maskrestore.types.StreamingClassifier`) gets pictures one by one, and
  may work on several at once.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.classifiers.answer_cache import AnswerCache
from maskrestore.classifiers.counting import CountingClassifier
from maskrestore.classifiers.retrying import LONGEST_WAIT, Waits, asks_for_later, longer
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ClassifierStoppedError, InvalidImageError, QueryBudgetError, RetryLater
from maskrestore.types import Classifier, StreamingClassifier

__all__ = ["Asker", "Asking", "is_local_model"]

_PIXELS_OF_A_CALL = 2**24
"""A function is asked about as many pictures in a call as have so many pixels together, at least one."""
_PICTURES_OF_A_SLOW_CALL = 32
_SLOW = 0.05
"""Seconds for a picture. A function that takes longer gets few pictures in a call."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What a run does if the classifier fails."""

    errors_in_row: int | None = 5
    """Stop after so many errors without an answer in between. ``None``: never, and no request to wait is followed:
    both are for the caller to decide. An image that the classifier does not take (InvalidImageError) counts as none."""
    longest_wait: float = LONGEST_WAIT
    """Seconds that the run waits for a classifier that says "later". They count anew with each answer."""
    cache: AnswerCache | None = None
    """Answers of an earlier run."""
    told: Callable[[str], None] | None = None
    """Is told how many queries were sent, and what the run waits for: for the display of progress."""


class Asker:
    """Asks a classifier, for one run. Not safe for use by several threads."""

    def __init__(self, classifier: Classifier, budget: Budget, how: Asking) -> None:
        """budget: counts each query that is sent."""
        self._classifier, self._budget, self._how = classifier, budget, how
        self._waits = Waits(how.longest_wait)
        self._in_row = 0
        self._stopped: str | None = None
        self._by_image = is_local_model(classifier)
        self._together = not isinstance(classifier, StreamingClassifier)
        self._is_slow = False

    def twin(self, classifier: Classifier | None = None) -> Asker:
        """Another one within the same budget, for another thread. classifier: ``None`` for the same."""
        return Asker(classifier or self._classifier, self._budget, self._how)

    def ask(self, pictures: Tensor, owners: Sequence[int], lost: set[int]) -> tuple[Tensor, dict[int, Exception]]:
        """Ask about ``(N, C, H, W)`` pictures.

        owners: ``N`` numbers of the images that they belong to. lost: images that need no answer any more.

        Returns labels ``(N,)`` int64, 0 for a picture without an answer, and the error of each image that lacks one.
        """
        question = _Question(pictures, owners, self._how.cache)
        waiting = [index for index in question.unanswered() if owners[index] not in lost]
        if self._together and self._stopped is None and len(waiting) > 1:
            waiting = self._ask_in_calls(question, waiting)
        if waiting:
            self._ask_separately(question, waiting)
        return question.labels, question.errors

    def _ask_in_calls(self, question: _Question, waiting: list[int]) -> list[int]:
        """Ask in as few calls as the classifier is fast enough for; returns the pictures without an answer."""
        size = _PICTURES_OF_A_SLOW_CALL if self._is_slow else len(waiting)
        if not self._by_image:  # a function gets a copy
            size = max(1, min(size, _PIXELS_OF_A_CALL // question.pictures[0, 0].numel()))
        started = time.monotonic()
        pieces = [waiting[start : start + size] for start in range(0, len(waiting), size)]
        left = [index for piece in pieces for index in self._ask_together(question, piece)]
        if not left and not self._by_image:
            self._is_slow = time.monotonic() - started > _SLOW * len(waiting)
        return left

    def _ask_together(self, question: _Question, piece: list[int]) -> list[int]:
        """Ask about pictures in one call; returns those without an answer."""
        if not self._together or self._stopped is not None or not self._budget.allows(len(piece)):
            return piece
        self._spend(len(piece))
        try:
            question.take(piece, self._classifier(question.of(piece)))
        except Exception as error:
            later = asks_for_later(error)
            if later is not None:
                self._together = self._by_image
                self._wait(later)
            return piece
        self._answered()
        return []

    def _ask_separately(self, question: _Question, waiting: list[int]) -> None:
        """Ask image by image or picture by picture; nothing more about an image once there is an error."""
        queue = deque(question.by_image(waiting) if self._by_image else [[index] for index in waiting])
        while queue and self._stopped is None:
            later = self._ask_each(question, queue)
            if later is not None and not self._wait(later) and self._stopped is None:
                question.fail(queue, later)
                return
        if self._stopped is not None:
            question.fail(queue, ClassifierStoppedError(self._stopped))

    def _ask_each(self, question: _Question, queue: deque[list[int]]) -> RetryLater | None:
        """Ask until the queue is empty or the classifier says "later"; what it says that about is put back."""
        later: RetryLater | None = None
        sent: list[list[int]] = []
        again: list[list[int]] = []

        def units() -> Iterator[Tensor]:
            while queue and later is None and self._stopped is None:
                unit = queue.popleft()
                owner = question.owners[unit[0]]
                if owner in question.errors:
                    continue
                try:
                    self._spend(len(unit))
                except QueryBudgetError as error:
                    question.errors[owner] = error
                    continue
                sent.append(unit)
                yield question.of(unit)

        for place, answer in self._answers(units()):
            unit = sent[place]
            if isinstance(answer, Tensor):
                question.take(unit, answer)
                self._answered()
                continue
            wish = asks_for_later(answer)
            if wish is None:
                question.errors.setdefault(question.owners[unit[0]], answer)
                self._count(answer)
            else:
                again.append(unit)
                later = longer(later, wish)
        queue.extendleft(reversed(again))
        return later

    def _answers(self, units: Iterator[Tensor]) -> Iterator[tuple[int, Tensor | Exception]]:
        if isinstance(self._classifier, StreamingClassifier):
            yield from self._classifier.answers(units)
            return
        for place, pictures in enumerate(units):
            answer: Tensor | Exception
            try:
                answer = self._classifier(pictures)
            except Exception as error:
                answer = error
            yield place, answer

    def _spend(self, queries: int) -> None:
        self._budget.spend(queries)
        self._tell(f"{self._budget.spent} queries")

    def _tell(self, note: str) -> None:
        if self._how.told is not None:
            self._how.told(note)

    def _answered(self) -> None:
        self._in_row = 0
        self._waits.reset()

    def _count(self, error: Exception) -> None:
        """Count an error, and stop after too many."""
        self._in_row += not isinstance(error, InvalidImageError)
        if self._in_row == self._how.errors_in_row:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            hint = "; a function that raises maskrestore.errors.RetryLater is waited for" if _limits(said) else ""
            self._stopped = f"the classifier failed {self._in_row} times in a row, at last with {said}{hint}"

    def _wait(self, later: RetryLater) -> bool:
        """Wait as the classifier asks for; returns whether it may be asked again."""
        if self._how.errors_in_row is None:
            return False
        seconds = self._waits.seconds(later)
        if seconds is None:
            self._stopped = (
                f"the classifier asks to wait, and the run waits for {self._how.longest_wait:g} s at most until an "
                f"answer arrives: {' '.join(str(later).split())}"
            )
            return False
        self._tell(f"{self._budget.spent} queries, waiting {max(1, round(seconds))} s: {later}")
        self._waits.wait(seconds)
        return True


class _Question:
    """Pictures that were asked about in one round, and the answers so far."""

    def __init__(self, pictures: Tensor, owners: Sequence[int], cache: AnswerCache | None) -> None:
        self.pictures, self.owners, self._cache = pictures, owners, cache
        self.labels = torch.zeros(len(pictures), dtype=torch.int64)
        self.errors: dict[int, Exception] = {}
        self._keys = [] if cache is None else cache.keys(pictures)

    def unanswered(self) -> list[int]:
        """The pictures that the cache does not hold the answers of."""
        if self._cache is None:
            return list(range(len(self.pictures)))
        known = self._cache.get(self._keys)
        for index, label in enumerate(known):
            self.labels[index] = 0 if label is None else label
        return [index for index, label in enumerate(known) if label is None]

    def of(self, indices: list[int]) -> Tensor:
        """Some of the pictures."""
        first, last = indices[0], indices[-1] + 1
        return self.pictures[first:last] if last - first == len(indices) else self.pictures[indices]

    def by_image(self, indices: list[int]) -> list[list[int]]:
        """Pictures in a list for each image."""
        found: dict[int, list[int]] = {}
        for index in indices:
            found.setdefault(self.owners[index], []).append(index)
        return list(found.values())

    def take(self, indices: list[int], labels: Tensor) -> None:
        """Keep the labels of some of the pictures."""
        self.labels[indices] = labels
        if self._cache is not None:
            self._cache.put([self._keys[index] for index in indices], labels.tolist())

    def fail(self, units: Sequence[list[int]] | deque[list[int]], error: Exception) -> None:
        """The error of the images that lack these answers."""
        for unit in units:
            self.errors.setdefault(self.owners[unit[0]], error)


def _limits(said: str) -> bool:
    """Whether an error of a class of the user's own sounds like a limit of the rate."""
    return re.search(r"\b429\b|rate.?limit|too.?many.?requests|throttl", said, re.IGNORECASE) is not None


def is_local_model(classifier: Classifier) -> bool:
    """Whether it is the adapter of a model that runs on this machine, and not a function or an address."""
    while isinstance(classifier, CountingClassifier):
        classifier = classifier.classifier
    return hasattr(classifier, "micro_batch")
