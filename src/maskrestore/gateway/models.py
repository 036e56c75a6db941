"""A model with its defense and its scheduler, and whether it is ready."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers import HttpClassifier, ModuleClassifier, OnnxClassifier, load_classifier
from maskrestore.defense.batching import ON_CPU, ON_GPU
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.streams import Key, key_fingerprint
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError
from maskrestore.gateway.config import LimitsConfig, ModelConfig
from maskrestore.gateway.interface import Interface, interface_of
from maskrestore.gateway.queues import FairQueue, QueuedPicture
from maskrestore.gateway.scheduler import Scheduler
from maskrestore.gateway.upstream import PatientUpstream, Questions
from maskrestore.imaging.views import View
from maskrestore.jobs.identity import classifier_identity, settings_digest
from maskrestore.mae.choice import restorer_for
from maskrestore.reporting import printable
from maskrestore.types import Classifier, Restorer, RestorerChoice

__all__ = ["ModelSlot", "ShieldedModel"]

_ASKING_THREADS = 64
"""Pictures of an upstream that are asked about at a time; what is sent is limited by its connections."""

_LOG = logging.getLogger(__name__)


class ShieldedModel:
    """A model that is loaded, or whose server answers, and the thread that purifies pictures for it."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        *,
        restorer: Restorer | RestorerChoice,
        key: Key,
        limits: LimitsConfig,
        device: str,
        classes_file: Path | None,
        fixed_classes: bool,
    ) -> None:
        """classes_file: where names of classes are kept, for an upstream that answers with names. fixed_classes: it may
        not answer with others than those of the configuration.

        Raises what ``load_classifier`` raises, and ConfigError if the interface of the model is not clear.
        """
        classifier = load_classifier(config.classifier, **_settings(config), device=device)
        self.name, self.config = name, config
        self.interface: Interface = interface_of(name, classifier, config)
        self.server = classifier if isinstance(classifier, HttpClassifier) else None
        if self.server is not None and classes_file is not None:
            self.server.keep_classes(classes_file, shared=True)
        if self.server is not None and fixed_classes:
            self.server.fix_classes()
        self.defense = BDMAE(restorer, config.defense_config(), key=key)
        self.max_queries = self.defense.config.max_queries
        """The most queries for a picture, with the one for the model's own scores."""
        if self.interface.answer == "upstream":
            self.max_queries += 1
        options = config.model_dump(mode="json", include=_OF_IDENTITY)
        in_doubt = [] if config.on_doubt == "answer" else [config.on_doubt, config.doubt_limit]
        self.identity = {
            "classifier": classifier_identity(config.classifier, classifier, options),
            "key_fingerprint": key_fingerprint(key),
            "config_digest": settings_digest(self.defense, config.classifier, options, config.version, *in_doubt),
        }
        size = getattr(classifier, "input_size", None)
        self.view = None
        """How image files get the size of the model."""
        if size is not None:
            self.view = View(height=size[0], width=size[1], convention=config.resize, crop_share=config.crop_share)
        self._loaded = classifier
        self._alone = threading.Lock()
        self._upstream: PatientUpstream | None = None
        self.threads: ThreadPoolExecutor | None = None
        """For everything that waits for the upstream; ``None`` for a model in this process."""
        if self.server is not None:
            self.threads = ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix=f"questions to {name}")
            self._upstream = PatientUpstream(
                self.server,
                patience=config.patience,
                failures=config.breaker_failures,
                seconds=config.breaker_seconds,
            )
        on_gpu = str(getattr(restorer, "device", "cpu")) != "cpu"
        bounds = ON_GPU if on_gpu else ON_CPU
        if config.places is not None:
            bounds = dataclasses.replace(bounds, images=config.places)
        self.scheduler = Scheduler(
            name,
            lambda: self.defense.pipeline(self._asked(), apart=self.threads),
            FairQueue(limits.queue, limits.queue_pixels),
            bounds,
            asked=None if self._upstream is None else self._asked_about,
            lines=2 if self._takes_threads and not on_gpu else 1,  # a GPU is busy with one
        )

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes in the order of their labels, those that are known."""
        return self.config.classes or getattr(self._loaded, "classes", None)

    @property
    def retries(self) -> int:
        """Questions to the upstream that were asked again."""
        return 0 if self._upstream is None else self._upstream.retries

    def class_name(self, label: int | None) -> str | None:
        """The name of a label, if it is known."""
        names = self.classes
        return None if names is None or label is None or not 0 <= label < len(names) else printable(names[label])

    def restorer_name(self, picture: Tensor) -> str | None:
        """The name of the restorer of a picture ``(C, H, W)``, if it has one."""
        return getattr(restorer_for(self.defense.restorer, (picture.shape[-2], picture.shape[-1])), "name", None)

    def plain_labels(self, images: Sequence[Tensor], until: float) -> list[int]:
        """The model's labels of pictures as they are, without any shield. Raises what the model's adapter raises.

        until: when nobody waits for them any more, by ``time.monotonic``.
        """
        return [int(self._asked(until)(image[None])[0]) for image in images]

    def upstream_outputs(self, pictures: Sequence[Tensor], until: float) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
        """The model's own answers about pictures ``(C, H, W)``: datatypes and values of its outputs by name.

        Of an upstream all outputs, of a model in this process the one that is read.

        until: as for :meth:`plain_labels`. Raises ClassifierError, and ClassifierOutputError for answers that do not
        belong together.
        """
        if self.server is None:
            assert isinstance(self._loaded, OnnxClassifier | ModuleClassifier)
            scores = np.asarray(self._loaded.scores(torch.stack(list(pictures))))
            return {self.interface.output: (self.interface.answer_type, scores)}
        assert self._upstream is not None
        answers = [self._upstream.outputs(picture[None], until) for picture in pictures]
        joined = {}
        for name, first in answers[0].items():
            try:
                parts = [answer[name].values()[:1] for answer in answers]
                joined[name] = (str(first.datatype), np.concatenate(parts))
            except (KeyError, ValueError, IndexError) as error:
                raise ClassifierOutputError(f"the outputs {name!r} do not fit together: {error}") from error
        return joined

    def check(self) -> str | None:
        """Why the model is not ready, or None. Asks the upstream."""
        if self._upstream is not None and self._upstream.left_alone:
            return "the upstream failed too often, and is left alone for a while"
        if self.server is not None:
            try:
                self.server.check_ready()
            except ClassifierError as error:
                return printable(str(error))
        return None

    def close(self) -> None:
        """Finish the pictures that are here, and end."""
        self.scheduler.close()
        if self.threads is not None:
            self.threads.shutdown(wait=False, cancel_futures=True)
        if self.server is not None:
            self.server.close()

    def _asked(self, until: float = math.inf) -> Classifier:
        if self._upstream is not None:
            return Questions(self._upstream, until)
        return self._loaded if self._takes_threads else self._asked_alone

    @property
    def _takes_threads(self) -> bool:
        """Whether several threads may ask a model in this process. Functions of others may not like that."""
        return isinstance(self._loaded, OnnxClassifier | ModuleClassifier)

    def _asked_alone(self, images: Tensor) -> Tensor:
        with self._alone:
            return self._loaded(images)

    def _asked_about(self, picture: QueuedPicture) -> Classifier:
        assert self._upstream is not None
        return Questions(self._upstream, picture.deadline, lambda: not picture.future.cancelled(), picture.context)


class ModelSlot:
    """A model of the configuration: perhaps not loaded yet, since its upstream does not answer."""

    def __init__(self, name: str, config: ModelConfig, made_with: Mapping[str, Any]) -> None:
        """made_with: further arguments of :class:`ShieldedModel`."""
        self.name, self.config, self._made_with = name, config, made_with
        self.model: ShieldedModel | None = None
        self.reason: str | None = "it is not loaded yet"
        """Why the model is not ready."""

    def refresh(self) -> None:
        """Load the model if it is not, and ask whether it is ready. Raises ConfigError, also for damaged files."""
        try:
            if self.model is None:
                self.model = ShieldedModel(self.name, self.config, **self._made_with)
            reason = self.model.check()
        except ConfigError:
            raise
        except ClassifierError as error:
            if not self.config.is_address:
                raise
            reason = printable(str(error))
        if (reason is None) != (self.reason is None):
            level = logging.INFO if reason is None else logging.WARNING
            _LOG.log(level, "model %s is %s", self.name, "ready" if reason is None else f"not ready: {reason}")
        self.reason = reason

    def close(self) -> None:
        """Finish the pictures that are here, and end."""
        if self.model is not None:
            self.model.close()


_TENSORS = (
    "mean", "std", "pixel_range", "channel_order", "layout", "input_size", "output", "threshold", "classes",
    "micro_batch", "threads", "precision",
)  # fmt: skip
_OF_IDENTITY = {*_TENSORS, "body", "label", "resize", "crop_share"} - {"threads"}
_OF_ADDRESSES = ("body", "label", "binary")
_TRANSPORT = ("concurrency", "timeout", "connect_timeout", "most_bytes")


def _settings(config: ModelConfig) -> dict[str, Any]:
    """As ``load_classifier`` takes them."""
    given = {name: value for name in _TENSORS if (value := getattr(config, name)) is not None}
    http = {name: value for name in _OF_ADDRESSES if (value := getattr(config, name)) is not None}
    if config.headers:
        http["headers"] = config.headers
    if config.is_address:
        http |= {name: getattr(config, name) for name in _TRANSPORT}
    return given | ({"http": http} if http else {})
