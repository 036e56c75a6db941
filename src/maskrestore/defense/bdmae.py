"""BDMAE, "Mask and Restore": the public interface of the defense. ``pipeline.py`` composes its stages."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, Literal

import torch
from torch import Tensor

from maskrestore.classifiers import CountingClassifier, as_classifier
from maskrestore.defense.asking import Asker, Asking
from maskrestore.defense.batching import ON_CPU, ON_GPU, Limits, in_order, purify_chunk, read_chunks
from maskrestore.defense.beyond_paper.budget import scheduled, within
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.doubt import DOUBT_LIMIT, OnDoubt, answers, check_on_doubt
from maskrestore.defense.oracle import Budget
from maskrestore.defense.pipeline import Pipeline
from maskrestore.defense.profiles import profile_config
from maskrestore.defense.streams import Key, key_bytes
from maskrestore.errors import ConfigError, InvalidImageError, PurificationInterruptedError
from maskrestore.imaging.inputs import as_batch
from maskrestore.mae.choice import DEFAULT_RESTORER, load_restorer
from maskrestore.types import Classifier, Purification, Restorer, RestorerChoice, StreamItem, StreamResult

__all__ = ["BDMAE", "protect"]


class BDMAE:
    """Blind defense with a masked autoencoder.

    For each image: score every token by how badly it is restored (S_i) and by how much the label depends on it (S_l),
    refine both scores with connected sets of tokens, restore the tokens with high scores, query the classifier again.
    """

    def __init__(
        self,
        restorer: Restorer | RestorerChoice | str = DEFAULT_RESTORER,
        profile: BDMAEConfig | str = "default",
        *,
        key: Key = 0,
        chunk_size: int | None = None,
    ) -> None:
        """Raises ConfigError, and what :func:`load_restorer` raises.

        restorer: a restorer or a choice by size, or a name for :func:`load_restorer`; ``auto`` takes the packaged one
        that fits the size of each picture. profile: the name of a profile in
        :data:`maskrestore.PROFILES`, or settings. key: the operator's secret. An attacker who does
        not know it cannot predict the masks; the default, 0, is public. A text is the same key as in MASKRESTORE_KEY.

        chunk_size: number of images purified at a time. It bounds memory and changes no result. ``None``: on a CPU 64,
        or fewer if they have more than 2^19 pixels together (10 at 224 x 224); with a restorer on a GPU 256, or fewer
        if they are larger than 224 x 224. If the images have more than 2^19 pixels together (on a GPU, more than 64
        images of 224 x 224), their random masks are restored in several parts of at least one round.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, got {chunk_size}")
        self.restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
        if not isinstance(self.restorer, Restorer | RestorerChoice):
            raise ConfigError(f"expected a restorer or the name of one, got {type(restorer).__name__}")
        self.config = profile_config(profile)
        key_bytes(key)  # raises for an invalid key here, not at the first image
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Callable[[Tensor], Any]) -> Purification:
        """Purify images, each on its own, and label them.

        images: whatever :func:`maskrestore.imaging.inputs.as_batch` takes: uint8 or float in [0, 1], one or a batch,
        grey or RGB, any size. classifier: ``(B, C, H, W)`` in [0, 1] -> ``(B,)`` hard labels, or a module that returns
        logits (see :func:`maskrestore.classifiers.as_classifier`).

        Returns a :class:`Purification` with all maps. Its ``images`` are float32 and bit-identical to the input outside
        ``hidden``. Raises InvalidImageError, and PurificationInterruptedError with the results so far if the classifier
        raises or does not return labels; ``__cause__`` is the original error. If the classifier raises
        :class:`~maskrestore.errors.RetryLater`, a time-out or an error of the connection, it waits and asks again, for
        ten minutes at most.
        """
        batch = as_batch(images)
        done: list[Purification] = []
        for one in self._purify_checked(enumerate(batch), as_classifier(classifier), Budget(), Asking(), ordered=True):
            if one.result is None:
                partial = Purification.concatenate(done) if done else None
                raise PurificationInterruptedError(
                    f"stopped after {len(done)} of {len(batch)} images: {type(one.error).__name__}: {one.error}",
                    partial,
                ) from one.error
            done.append(one.result)
        return Purification.concatenate(done)

    def purify_stream(
        self,
        items: Iterable[StreamItem],
        classifier: Callable[[Tensor], Any],
        *,
        budget: Budget | int | None = None,
        ordered: bool = True,
        asking: Asking = Asking(),  # noqa: B008 - frozen
    ) -> Iterator[StreamResult]:
        """Purify a stream of images of any length and of mixed sizes, in bounded memory.

        items: each is read when it is needed. classifier: as for :meth:`purify`. budget: the most queries for the whole
        stream. An image is only begun if the rest of the budget is sure to suffice. ordered: yield results in the order
        of the items, otherwise each as soon as it is finished. asking: what to do if the classifier fails.

        Yields a result or an error for each item. An invalid image does not affect the others. If the classifier fails
        at some pictures, only their images get an error. If it raises :class:`~maskrestore.errors.RetryLater`, a
        time-out or an error of the connection, the stream waits and asks again. After five errors in a row it asks
        nothing more: all further images get a ClassifierStoppedError. Raises ClassifierError if ``classifier`` is none,
        and whatever ``items`` raises.
        """
        checked = (_checked(item) for item in items)
        budget = budget if isinstance(budget, Budget) else Budget(budget)
        return self._purify_checked(checked, as_classifier(classifier), budget, asking, ordered=ordered)

    def protect(
        self,
        classifier: Callable[[Tensor], Any],
        *,
        on_doubt: OnDoubt = "answer",
        doubt_limit: float = DOUBT_LIMIT,
    ) -> Callable[[object], Tensor]:
        """A drop-in replacement for ``classifier`` that purifies each image before it answers.

        on_doubt: what to answer if the doubt of a result (:attr:`Purification.doubt`) is above ``doubt_limit``:
        ``answer`` gives the purified label all the same, ``original`` the classifier's label of the image as it came,
        ``abstain`` :data:`~maskrestore.defense.doubt.ABSTAINED`, -1. A function gets the image ``(C, H, W)`` and its
        :class:`Purification`, of a batch of one, and returns a label. No policy costs a query.

        It can be pickled if the classifier can. Raises ClassifierError if ``classifier`` is none, UnknownNameError for
        an unknown policy, and ConfigError for a limit outside [0, 1] or for ``original`` with a single query. A call
        raises what :meth:`purify` raises.
        """
        check_on_doubt(on_doubt, doubt_limit, self.config)
        return functools.partial(_labels, self, as_classifier(classifier), on_doubt, doubt_limit)

    def pipeline(
        self,
        classifier: Callable[[Tensor], Any],
        budget: Budget | int | None = None,
        asking: Asking = Asking(errors_in_row=None),  # noqa: B008 - frozen
        *,
        apart: Executor | None = None,
    ) -> Pipeline:
        """A pipeline that images can join between rounds, for programs such as a server that run the rounds themselves.

        classifier, budget, asking: as for :meth:`purify_stream`, but by default the pipeline never waits and never
        stops: an image that the classifier fails at gets the error. Queries are counted, but images can always join:
        check ``budget.allows(config.max_queries)`` first. Raises ClassifierError if ``classifier`` is none.

        apart: threads that ask the classifier, which must be safe for that, about the images that joined together: a
        late answer holds no others. The budget is then exact only if it has no limit.
        """
        ask = as_classifier(classifier)
        limits = self._limits if _has_device(ask) else ON_CPU
        return Pipeline(
            self.restorer,
            self.config,
            Asker(ask, budget if isinstance(budget, Budget) else Budget(budget), asking),
            key=self.key,
            masked_pixels=limits.masked_pixels,
            apart=apart,
        )

    @property
    def _limits(self) -> Limits:
        on_cpu = torch.device(getattr(self.restorer, "device", "cpu")).type == "cpu"  # also without such an attribute
        limits = ON_CPU if on_cpu else ON_GPU
        return limits if self.chunk_size is None else dataclasses.replace(limits, images=self.chunk_size, pixels=None)

    def _purify_checked(
        self,
        images: Iterable[tuple[Hashable, Tensor | Exception]],
        classifier: Classifier,
        budget: Budget,
        asking: Asking,
        *,
        ordered: bool,
    ) -> Iterator[StreamResult]:
        """images: each an id and ``(C, H, W)`` float32 in [0, 1], or an id and the error of an invalid image."""
        pipeline = self.pipeline(classifier, budget, asking)
        for chunk in read_chunks(images, self._limits, budget, self.config.max_queries):
            results = purify_chunk(chunk, pipeline)
            yield from in_order(results) if ordered else (result for _, result in results)


def protect(
    classifier: Callable[[Tensor], Any],
    *,
    restorer: Restorer | RestorerChoice | str = DEFAULT_RESTORER,
    profile: BDMAEConfig | str = "default",
    max_queries: int | None = None,
    key: Key | None = None,
    chunk_size: int | None = None,
    on_doubt: OnDoubt = "answer",
    doubt_limit: float = DOUBT_LIMIT,
    config: BDMAEConfig | str | None = None,
    schedule: Literal["exact", "fast"] | None = None,
) -> Callable[[object], Tensor]:
    """Put BDMAE in front of a classifier.

    Returns a function: ``protect(classifier, key=...)(images)`` are the labels ``(B,)`` int64 of the purified images.

    classifier, and what the function takes and raises: see :meth:`BDMAE.purify`. max_queries: the most queries for an
    image; see :func:`maskrestore.within`. on_doubt, doubt_limit: what to answer if the result is in doubt; see
    :meth:`BDMAE.protect`. Other arguments: see :class:`BDMAE`. Without a key an attacker can predict
    the masks; a warning says so. config, schedule: deprecated, removed in 0.2; use ``profile``, e.g. ``fast``. Raises
    ConfigError, ClassifierError if ``classifier`` is none, and what :func:`load_restorer` raises.
    """
    if key is None:
        warnings.warn("no key: an attacker can predict the masks; pass key= with a secret of your own", stacklevel=2)
    if config is not None and profile != "default":
        raise ConfigError("got both profile= and config=, which is its former name; leave config= out")
    chosen = profile_config(profile if config is None else config)
    if config is not None or schedule is not None:
        message = "config= and schedule= will be removed in 0.2; use profile=, e.g. profile='fast'"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        chosen = scheduled(chosen, schedule)
    if max_queries is not None:
        chosen = within(chosen, max_queries)
    defense = BDMAE(restorer, chosen, key=0 if key is None else key, chunk_size=chunk_size)
    return defense.protect(classifier, on_doubt=on_doubt, doubt_limit=doubt_limit)


def _labels(defense: BDMAE, classifier: Classifier, on_doubt: OnDoubt, limit: float, images: object) -> Tensor:
    batch = as_batch(images)
    return answers(batch, defense.purify(batch, classifier), on_doubt, limit)


def _checked(item: StreamItem) -> tuple[Hashable, Tensor | Exception]:
    """The id of an item and its image, ``(C, H, W)`` in [0, 1], or the error if it is invalid.

    Raises ConfigError for what is no item.
    """
    if not isinstance(item, StreamItem):
        raise ConfigError(f"expected items of type StreamItem(id=..., image=...), got {type(item).__name__}")
    try:
        batch = as_batch(item.image)
    except InvalidImageError as error:
        return item.id, error
    if len(batch) != 1:
        return item.id, InvalidImageError(f"expected one image for each item, got {len(batch)} for {item.id!r}")
    return item.id, batch[0]


def _has_device(classifier: Classifier) -> bool:
    """Whether a classifier moves images to a device itself. A plain function gets them on the CPU, few at a time."""
    while isinstance(classifier, CountingClassifier):
        classifier = classifier.classifier
    return hasattr(classifier, "device")
