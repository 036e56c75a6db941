"""Adapter for a classifier behind an address."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.http_images import BodyTemplate, LabelPath
from maskrestore.classifiers.http_labels import LabelReader
from maskrestore.classifiers.http_transport import Reply, Transport, Unanswered, parsed_json
from maskrestore.classifiers.normalisation import (
    ChannelOrder,
    Channelwise,
    Layout,
    checked_layout,
    checked_size,
)
from maskrestore.classifiers.onnx_inputs import OnnxInput, packed, pixel_rules
from maskrestore.classifiers.open_inference import (
    ModelAddress,
    ServedModel,
    question,
    read_outputs,
    read_reply,
    served_model,
)
from maskrestore.classifiers.open_inference_messages import BINARY_HEADER, MessageTensor
from maskrestore.classifiers.retrying import Waits, longer
from maskrestore.errors import (
    ClassifierError,
    ClassifierOutputError,
    ConfigError,
    InvalidImageError,
    QueryBudgetError,
    RetryLater,
)
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.resize import resize

__all__ = ["HttpClassifier"]


class HttpClassifier:
    """Asks a server for labels, one picture in a request, several requests at a time.

    An address of the form ``https://host/v2/models/NAME`` is asked in the Open Inference Protocol, as Triton, KServe,
    MLServer, TorchServe and OpenVINO speak it. The server says which input it takes. Any other address needs ``body``
    and ``label``: what to send, and where in the JSON reply the label is.

    Labels that are names become numbers in the order in which they first appear, see ``classes``. Only labels are kept,
    never scores. It can be pickled, and used by several threads.
    """

    def __init__(
        self,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
        label: str | None = None,
        mean: Channelwise | None = None,
        std: Channelwise | None = None,
        pixel_range: Sequence[float] | None = None,
        channel_order: ChannelOrder | None = None,
        input_size: int | Sequence[int] | None = None,
        layout: Layout | None = None,
        output: str | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        binary: bool | None = None,
        concurrency: int = 8,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        most_bytes: int = 2**24,
        budget: int | None = None,
    ) -> None:
        """Describe a server. For the Open Inference Protocol, this asks it what it takes.

        headers: names and values. ``$NAME`` in a value, or in the address, is replaced by a variable of the
        environment; such values appear in no message, record or pickle.
        body: ``png`` or ``jpeg`` for the bytes of such a file, or JSON with ``{image_base64}``, a PNG, or
        ``{jpeg_base64}`` in a text. Pixels are rounded to 8 bits.
        label: a JMESPath into the reply: an integer, a name, a list of scores, or a map from names to scores.
        mean, std, pixel_range, channel_order, layout: as for :class:`OnnxClassifier`, for the Open Inference Protocol.
        input_size: ``(H, W)`` or one number for both that pictures are resized to.
        output: the output that holds the answer, if there are several that could.
        threshold: for a model with one score for each image: the label is 1 above it, else 0.
        classes: names of the classes in the order of their labels. None: they are numbered as they appear.
        binary: send tensors in bytes instead of JSON. None: if the server offers it.
        concurrency: requests at a time.
        timeout: seconds for an answer. connect_timeout: seconds until a connection is opened.
        most_bytes: of a reply.
        budget: the most requests with a picture, for use without a limit elsewhere.

        Raises ConfigError for a setting outside its range, or one that is missing; ClassifierError if the server cannot
        be reached or takes no pictures; and MissingDependencyError without the extra ``http``.
        """
        for name, value in (("concurrency", concurrency), ("most_bytes", most_bytes)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if budget is not None and budget < 0:
            raise ConfigError(f"budget must be 0 or more queries, or None, got {budget}")
        self.address = address
        self.concurrency, self.budget = concurrency, budget
        self.sent = 0
        """Requests with a picture so far."""
        self._transport = Transport(
            address,
            headers or {},
            timeout=timeout,
            connect_timeout=connect_timeout,
            connections=concurrency,
            most_bytes=most_bytes,
        )
        self._labels_of = LabelReader(threshold, classes)
        model = ModelAddress.of(address)
        self.input_size = checked_size(input_size)
        """``(H, W)`` that pictures are resized to, or None."""
        self.notes: list[str] = []
        """What was assumed without being said."""
        self._body: BodyTemplate | None = None
        self.served: ServedModel | None = None
        """What a server of the Open Inference Protocol takes and answers; None for another endpoint."""
        self.metadata: dict[str, Any] = {}
        """What it says about the model."""
        if body is not None or label is not None or model is None:
            given = {"mean": mean, "std": std, "pixel_range": pixel_range, "channel_order": channel_order,
                     "layout": layout, "output": output, "binary": binary}  # fmt: skip
            self._describe_endpoint(body, label, [name for name, value in given.items() if value is not None])
        else:
            served = self._describe_model(model, checked_layout(layout), output, binary)
            self.normalise, assumed = pixel_rules(
                served.input,
                address,
                {},
                mean=0.0 if mean is None else mean,
                std=1.0 if std is None else std,
                pixel_range=pixel_range,
                channel_order=channel_order,
            )
            self.notes += assumed
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __enter__(self) -> HttpClassifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their labels, those that are known so far; None for numbers."""
        return self._labels_of.classes

    def keep_classes(self, path: Path, *, shared: bool = False) -> None:
        """Read the names of classes from a JSON file, and write new ones there, so that labels keep their meaning.

        shared: with other processes at the same time. Raises ConfigError if the file holds something else.
        """
        self._labels_of.keep_classes(path, shared=shared)

    def fix_classes(self) -> None:
        """Take no new names of classes: where several processes could give one label to two of them."""
        self._labels_of.fix_classes()

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        It waits if the server asks for it or cannot be reached for a while, for ten minutes at most, and asks again. A
        request that was sent and not answered is only sent again within a ``budget``, since it may be charged for.

        Raises InvalidImageError for images that the server does not take, RetryLater if it waited in vain,
        QueryBudgetError, ClassifierOutputError for an answer without a label, and ClassifierError for other failures.
        """
        batch = as_batch(images)
        labels = torch.zeros(len(batch), dtype=torch.int64)
        waiting, waits = list(range(len(batch))), Waits()
        while waiting:
            later = self._ask(batch, waiting, labels, waits)
            if later is not None:
                seconds = waits.seconds(later)
                if seconds is None:
                    raise later
                waits.wait(seconds)
        return labels

    def _ask(self, batch: Tensor, waiting: list[int], labels: Tensor, waits: Waits) -> RetryLater | None:
        """Ask about the pictures that wait for their labels, until the server says "later"."""
        later: RetryLater | None = None
        asked: list[int] = []

        def pictures() -> Iterator[Tensor]:
            for index in tuple(waiting):
                if later is None:
                    asked.append(index)
                    yield batch[index : index + 1]

        for place, answer in self.answers(pictures()):
            if isinstance(answer, Tensor):
                labels[asked[place]] = answer[0]
                waiting.remove(asked[place])
                waits.reset()
            elif isinstance(answer, RetryLater) and not (isinstance(answer, Unanswered) and self.budget is None):
                later = longer(later, answer)
            else:
                raise answer
        return later

    def answers(
        self,
        pictures: Iterable[Tensor],
        *,
        at_a_time: int | None = None,
        until: float = math.inf,
        context: Context | None = None,
    ) -> Iterator[tuple[int, Tensor | Exception]]:
        """Ask about pictures ``(1, C, H, W)``, ``concurrency`` at a time or fewer; see ``StreamingClassifier``.

        until: when nobody waits for answers any more, by ``time.monotonic``. Requests end then. context: in which they
        are sent, for tracing; ``None``: that of the caller.
        """
        context = copy_context() if context is None else context

        def label(picture: Tensor) -> Tensor:
            # Copied: a context can be entered by one thread at a time.
            return context.copy().run(self._label, picture, until)

        most = min(self.concurrency, at_a_time or self.concurrency)
        numbered, flying = enumerate(pictures), dict[Future[Tensor], int]()
        try:
            while True:
                while len(flying) < most and (taken := next(numbered, None)) is not None:
                    flying[self._workers().submit(label, taken[1])] = taken[0]
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield flying.pop(future), future.result() if error is None else error
        finally:
            for future in flying:
                future.cancel()

    def _describe_endpoint(self, body: str | None, label: str | None, useless: list[str]) -> None:
        if body is None or label is None:
            raise ConfigError(
                f"{self.address} is no address of the Open Inference Protocol (https://host/v2/models/NAME); for "
                'another one say what to send and where the label is: body=\'{"image": "{image_base64}"}\' and '
                "label='predictions[0].label' (--body, --label)"
            )
        if useless:
            raise ConfigError(
                f"{', '.join(useless)}: for addresses of the Open Inference Protocol; an image file is sent as it is; "
                "leave them out"
            )
        self._body, self._path = BodyTemplate(body), LabelPath(label)

    def _describe_model(
        self, model: ModelAddress, layout: Layout | None, output: str | None, binary: bool | None
    ) -> ServedModel:
        metadata = self._json(model.model)
        try:
            server = self._json(model.server)
        except ClassifierError:
            server = None  # it only says what else the server offers
        self._place = model.model
        served = served_model(
            metadata, server, self.address, layout=layout, input_size=self.input_size, output=output, binary=binary
        )
        self.metadata, self.served = dict(metadata), served
        if not metadata.get("inputs"):
            self.notes.append(f"{self.address} does not say what it takes; it is sent float32 (1, 3, H, W)")
        if len(served.input.layouts) > 1:
            raise ConfigError(
                f"{self.address}: the channels may be the first or the last axis; say which with layout=chw or hwc "
                "(--layout)"
            )
        self.input_size = served.input.size or self.input_size
        return served

    def _json(self, address: str) -> Any:
        try:
            return parsed_json(self._transport.send("GET", address).content)
        except ClassifierOutputError as error:
            raise ClassifierError(f"{address}: not the metadata of a model: {error}") from None

    def _label(self, picture: Tensor, until: float) -> Tensor:
        """The label ``(1,)`` of one picture ``(1, C, H, W)``."""
        if self._body is not None:
            sized, headers = self._sized(picture), {"Content-Type": self._body.content_type}
            self._count()
            reply = self._transport.send("POST", self.address, self._body(sized[0]), headers, until=until)
            return self._labels_of(self._path(reply.content))
        reply = self._asked(picture, until)
        assert self.served is not None
        answer = read_reply(reply.content, reply.headers.get(BINARY_HEADER), self.served.output)
        return self._labels_of(answer, rows=self.served.input.batch or 1)

    def outputs(self, picture: Tensor, *, until: float = math.inf) -> dict[str, MessageTensor]:
        """The whole answer about one picture ``(1, C, H, W)``: for those who hand it on, and not for the defense.

        until: as for :meth:`answers`.

        Raises what a call raises, but does not wait; and ConfigError for another endpoint than of the Open Inference
        Protocol.
        """
        if self.served is None:
            raise ConfigError(f"{self.address} is no address of the Open Inference Protocol; only its labels are known")
        reply = self._asked(picture, until, everything=True)
        return read_outputs(reply.content, reply.headers.get(BINARY_HEADER))

    def check_ready(self) -> None:
        """Ask the server whether the model is ready; nothing is asked at other endpoints than of the protocol.

        Raises RetryLater or ClassifierError if it is not.
        """
        if self.served is not None:
            self._transport.send("GET", f"{self._place}/ready")

    def _asked(self, picture: Tensor, until: float, *, everything: bool = False) -> Reply:
        assert self.served is not None
        model = dataclasses.replace(self.served, output=None) if everything else self.served
        content, headers = question(model, self._tensor(self._sized(picture), model.input))
        self._count()
        return self._transport.send("POST", f"{self._place}/infer", content, headers, until=until)

    def _sized(self, picture: Tensor) -> Tensor:
        batch = as_batch(picture)
        return batch if self.input_size is None else resize(batch, *self.input_size)

    def _count(self) -> None:
        with self._lock:
            if self.budget is not None and self.sent >= self.budget:
                raise QueryBudgetError(f"the budget of {self.budget} requests is spent")
            self.sent += 1

    def _tensor(self, picture: Tensor, taken: OnnxInput) -> np.ndarray[Any, Any]:
        """What the model takes for a picture ``(1, C, H, W)``."""
        if taken.channels not in (None, picture.shape[1]):
            raise InvalidImageError(
                f"{self.address} takes {taken.channels} channels, got a picture with {picture.shape[1]}"
            )
        return packed(self.normalise(picture), taken)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="http-classifier")
            return self._pool
