"""BDMAE, "Mask and Restore": the defense as users meet it. What it does with images is in ``stages.py``."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskrestore.classifiers import CountingClassifier, as_classifier
from maskrestore.defense.beyond_paper.budget import Schedule, scheduled
from maskrestore.defense.config import PROFILES, BDMAEConfig, profile
from maskrestore.defense.pipeline import Stages
from maskrestore.defense.streams import Key, Stream, key_bytes
from maskrestore.errors import ConfigError, PurificationInterruptedError
from maskrestore.imaging.inputs import as_batch
from maskrestore.mae.restorer import DEFAULT_RESTORER, load_restorer
from maskrestore.runtime.threads import map_on_cores
from maskrestore.types import Classifier, Purification, Restorer

__all__ = ["BDMAE", "protect"]


_CHUNK, _LARGE_CHUNK = (64, 2**19), (256, 256 * 224**2)
"""Images and pixels that are worked on at a time, at most, where nothing is said: everywhere, and on a GPU, which waits
for the host between two rounds, however many images take part in them."""
_ASKED = 64 * 224**2
"""Pixels of images whose random masks may all be restored and asked about in one go: of a larger chunk on a GPU they
are looked at in several."""


class BDMAE:
    """Blind defense with a masked autoencoder.

    For each image: score every token by how badly it is restored (S_i) and by how much the label depends on it
    (S_l), sharpen both scores along connected tokens, restore the tokens that score high, ask the classifier again.
    """

    def __init__(
        self,
        restorer: Restorer | str,
        config: BDMAEConfig | str = PROFILES["default"],
        *,
        key: Key = 0,
        chunk_size: int | None = None,
    ) -> None:
        """Raises ConfigError, and what :func:`load_restorer` raises.

        restorer: one that is loaded, or a name for :func:`load_restorer`. config: settings, or the name of a profile.
        key: the operator's secret; masks are unpredictable without it, and 0 is known to everybody. A text is the same
        key as in MASKRESTORE_KEY.

        chunk_size: images worked on at a time; it bounds memory and changes no result. ``None`` is 64, and fewer where
        those would have more than 2^19 pixels: 10 at 224 x 224; with a restorer on a GPU 256, and fewer of more than
        224 x 224. The random masks of a chunk with more than 2^19 pixels, on a GPU than 64 images of 224 x 224 have,
        are looked at in several goes, round by round at the smallest (with a plain function of 2^19 pixels, on a GPU,
        too). That bounds memory for a single large image.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, got {chunk_size}")
        self.restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
        if not isinstance(self.restorer, Restorer):
            raise ConfigError(f"expected a restorer or the name of one, got a {type(restorer).__name__}")
        self.config = profile(config)
        key_bytes(key)  # what is no key is an error now, not at the first image
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Callable[[Tensor], Any]) -> Purification:
        """Purify images, each on its own, and label them.

        images: whatever :func:`maskrestore.imaging.inputs.as_batch` takes: uint8 or float in [0, 1], one or a
        batch, grey or RGB, any size. classifier: ``(B, C, H, W)`` in [0, 1] -> ``(B,)`` hard labels, or a module
        that returns logits (see :func:`maskrestore.classifiers.as_classifier`).

        Returns a :class:`Purification` with every map; ``images`` are float32 and equal to the input bit for bit
        outside ``hidden``. Raises InvalidImageError, and PurificationInterruptedError (with the finished part) if
        the classifier raises or answers with something else; its own error, of a budget say, is the ``__cause__``.
        """
        batch, ask = as_batch(images), as_classifier(classifier)
        done: list[Purification] = []
        most, pixels = self.chunk_limits
        fitting = pixels // (batch.shape[-2] * batch.shape[-1])
        for chunk in batch.split(self.chunk_size or max(1, min(most, fitting))):
            try:
                done.append(self._purify_chunk(chunk, ask))
            except Exception as error:
                partial = Purification.concatenate(done) if done else None
                finished = 0 if partial is None else len(partial.labels)
                raise PurificationInterruptedError(
                    f"stopped after {finished} of {len(batch)} images: {type(error).__name__}: {error}",
                    partial,
                ) from error
        return Purification.concatenate(done)

    def protect(self, classifier: Callable[[Tensor], Any]) -> Callable[[object], Tensor]:
        """A drop-in replacement for ``classifier`` that purifies each image before it answers.

        It can be pickled if the classifier can. Raises ClassifierError for what is no classifier; called, what
        :meth:`purify` raises.
        """
        return functools.partial(_labels, self, as_classifier(classifier))

    @property
    def _device(self) -> torch.device:
        """Where pixels are worked on; a restorer that does not say so works on the CPU."""
        return torch.device(getattr(self.restorer, "device", "cpu"))

    @property
    def chunk_limits(self) -> tuple[int, int]:
        """Images and pixels that are worked on at a time, at most, where ``chunk_size`` says nothing."""
        return _CHUNK if self._device.type == "cpu" else _LARGE_CHUNK

    def _askable(self, classifier: Classifier) -> int:
        """Pixels of images whose random masks may all be asked about in one call."""
        while isinstance(classifier, CountingClassifier):
            classifier = classifier.classifier
        # What has no device of its own is a function, which gets its pictures all at once and on the CPU.
        return min(self.chunk_limits[1], _ASKED) if hasattr(classifier, "device") else _CHUNK[1]

    def _purify_chunk(self, images: Tensor, classifier: Classifier) -> Purification:
        stream_of = functools.partial(Stream, self.key)
        # A millisecond for an image of 224 x 224, which nothing waits for but a GPU.
        streams = list(map(stream_of, images)) if self._device.type == "cpu" else map_on_cores(stream_of, images)
        stages = Stages(self.restorer, self.config, classifier, together=self._askable(classifier))
        return stages.purify(images.to(self._device), streams)


def protect(
    classifier: Callable[[Tensor], Any],
    *,
    restorer: Restorer | str = DEFAULT_RESTORER,
    config: BDMAEConfig | str = PROFILES["default"],
    schedule: Schedule = "exact",
    max_queries: int | None = None,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> Callable[[object], Tensor]:
    """Put BDMAE in front of a classifier.

    ``protect(classifier, key=...)(images)`` are the labels ``(B,)`` int64 of the purified images.

    classifier: see :meth:`BDMAE.purify`, which also says what images may be and what is raised for them. schedule,
    max_queries: ``fast``, and a limit for each image: see :func:`scheduled`. See :class:`BDMAE` for the other
    arguments; without a key, which is warned of, an attacker can predict the masks. Raises ConfigError,
    ClassifierError for what is no classifier, and what :func:`load_restorer` raises.
    """
    if key is None:
        warnings.warn("no key: an attacker can predict the masks; pass key=, a secret of yours", stacklevel=2)
    chosen = scheduled(profile(config), schedule, max_queries)
    return BDMAE(restorer, chosen, key=0 if key is None else key, chunk_size=chunk_size).protect(classifier)


def _labels(defense: BDMAE, classifier: Classifier, images: object) -> Tensor:
    return defense.purify(images, classifier).labels
