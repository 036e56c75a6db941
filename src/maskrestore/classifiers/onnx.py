"""Adapter for an ONNX file as a black box."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.answers import checked_labels
from maskrestore.classifiers.model_answers import ModelAnswers
from maskrestore.classifiers.normalisation import (
    BAKED_IN,
    ChannelOrder,
    Channelwise,
    Layout,
    arranged,
    checked_layout,
    checked_size,
    default_micro_batch,
    fixed_chunks,
)
from maskrestore.classifiers.onnx_inputs import OnnxInput, picture_input, pixel_rules
from maskrestore.classifiers.onnx_outputs import answer_names, classes_in_file, one_score
from maskrestore.errors import (
    ClassifierError,
    ClassifierOutputError,
    ConfigError,
    InvalidImageError,
    MissingDependencyError,
)
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.resize import resize

__all__ = ["OnnxClassifier"]

_TRIAL = threading.Lock()
"""One thread at a time makes a first call; a lock of each adapter could not be pickled."""


class OnnxClassifier:
    """Runs a model in ONNX Runtime and returns labels only, never logits.

    The file says how many channels, pixels and images at a time the model takes, in which type of numbers, whether
    channels are the first or the last axis, and sometimes the range of its pixels and the names of its classes. Images
    of another size are resized (bilinear, antialiased). As in ``ModuleClassifier`` the model always gets chunks of one
    size, and by default it runs on one thread, so that its answers do not depend on the batch or on the load of the
    machine.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mean: Channelwise = 0.0,
        std: Channelwise = 1.0,
        pixel_range: Sequence[float] | None = None,
        channel_order: ChannelOrder | None = None,
        input_size: int | Sequence[int] | None = None,
        layout: Layout | None = None,
        output: str | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        micro_batch: int | None = None,
        threads: int = 1,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        """Open a model.

        mean, std: in units of [0, 1] pixels, one number for all channels or one for each.
        pixel_range: what 0 and 1 become, after mean and std. None: what the file says, else 0 to 255 for a model that
        takes uint8, else they stay.
        channel_order: ``bgr`` for a model that takes blue first. None: what the file says, else ``rgb``.
        input_size: ``(H, W)`` or one number for both, for a model that takes any size but was trained with one.
        layout: order of the axes: ``chw`` or ``hwc``; ``flat`` or ``flat-hwc`` for rows of numbers. None: from the
        file or, if it leaves that open, the only one that the model works with.
        output: name of the output that holds logits ``(B, K)``, labels ``(B,)``, names of classes or maps of scores.
        None: the only output that can hold labels, else the only one that can hold scores.
        threshold: for a model with one score for each image: the label is 1 above it, else 0.
        classes: names of the classes in the order of their labels, for a model that answers with names. None: those
        that the file lists.
        micro_batch: images at a time, ignored if the file fixes their number. None: 8 on a CPU, 32 on other devices, as
        in ``ModuleClassifier``; 1 for a model that fails with several.
        threads: threads within an operator.
        providers: ONNX Runtime's execution providers, in order of preference.

        Raises MissingDependencyError if ONNX Runtime is not installed; ConfigError for a setting out of its range, and
        if something is unclear that can be named, such as which of several outputs is the answer; ClassifierError if
        the file is missing, cannot be loaded, or does not take one batch of images.
        """
        for name, value in (("micro_batch", micro_batch), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.path = Path(path)
        self._place, self._opening = self.path.absolute(), (threads, tuple(providers))
        self._session = _open(self.path, *self._opening)
        self._taken = picture_input(self._session, self.path, checked_layout(layout), checked_size(input_size))
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.normalise, self.notes = pixel_rules(
            self._taken, self.path, metadata, mean=mean, std=std, pixel_range=pixel_range, channel_order=channel_order
        )
        """What becomes of pixels, and what was assumed without being said."""
        self._outputs = answer_names(self._session, output, self.path)
        self._read = ModelAnswers(None, threshold, classes or self._listed_classes())
        if threshold is None and one_score(self._session, self.output, self._taken):
            raise ConfigError(
                f"{self.path}: the output {self.output!r} is one score for each image, a probability or a logit; say "
                "above which score the label is 1: threshold=0.5 for probabilities, 0 for logits (--threshold 0.5)"
            )
        self.layout: Layout | None = self._taken.layouts[0] if len(self._taken.layouts) == 1 else None
        """Order of the axes of the input; None until the first call if the file leaves it open."""
        on_cpu = list(providers) == ["CPUExecutionProvider"]
        self.micro_batch = self._taken.batch or micro_batch or default_micro_batch(on_cpu=on_cpu)
        self._may_shrink = micro_batch is None and self._taken.batch is None
        self._settled = self.layout is not None and (self._taken.batch is not None or self.micro_batch == 1)
        self.channels = self._taken.channels
        """Channels that the model takes, or None if the file does not fix them."""
        self.input_size = self._taken.size or checked_size(input_size)
        """``(H, W)`` that images are resized to, or None if they are not resized."""

    @property
    def output(self) -> str:
        """The output that is read."""
        return self._outputs[0]

    @property
    def taken(self) -> OnnxInput:
        """What the input takes."""
        return self._taken

    @property
    def declared_answer(self) -> tuple[str, list[Any]]:
        """Type and shape of the output that is read, in ONNX Runtime's words."""
        (entry,) = (one for one in self._session.get_outputs() if one.name == self.output)
        return entry.type, list(entry.shape)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their labels, if the model answers with names and they are known.

        Where only its maps of scores name them, they are known after the first call.
        """
        return self._read.classes

    @property
    def takes_whole_numbers(self) -> bool:
        """Whether pixels are whole numbers for the model."""
        return bool(self._taken.dtype.kind in "iu")

    @property
    def words(self) -> dict[str, str]:
        """What the model takes and answers, for people."""
        channels = "any channels" if self.channels is None else f"{self.channels} channels"
        order = self.layout or " or ".join(self._taken.layouts) + ": the first pictures decide"
        kinds = {one.name: f"{one.type}, shape {one.shape}" for one in self._session.get_outputs()}
        return {
            "model": f"ONNX file {self.path}",
            "input": f"{self._taken.name}: {self._taken.kind}, {channels}, {order}",
            "answer": f"output {self.output}: {kinds[self.output]}",
            "device": self._session.get_providers()[0],
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images or another number of channels, ClassifierOutputError for an output
        that is neither scores nor labels or holds NaN, ClassifierError if the model fails, and ConfigError if it works
        with several layouts and none is named.
        """
        batch = self._checked(images)
        return torch.cat([self._labels(chunk)[:count] for chunk, count in fixed_chunks(batch, self.micro_batch)])

    def scores(self, images: Tensor) -> np.ndarray[Any, Any]:
        """What the output that is read holds, ``(B, ...)``, about images ``(B, C, H, W)`` in [0, 1].

        For those who hand it on, and not for the defense. Raises what a call raises, and ClassifierOutputError if it is
        no tensor of numbers with a row for each image.
        """
        parts = []
        for chunk, count in fixed_chunks(self._checked(images), self.micro_batch):
            answer, *_ = self._run(chunk)
            if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biuf" or len(answer) != len(chunk):
                raise ClassifierOutputError(f"{self.path}: the output {self.output!r} has no row for each image")
            parts.append(answer[:count])
        return np.concatenate(parts)

    def _checked(self, images: Tensor) -> Tensor:
        """Images that the model takes, once its layout is known."""
        batch = as_batch(images)
        if self.channels not in (None, batch.shape[1]):
            hint = "; --grey reads grey files as such, convert colour files to grey first" if self.channels == 1 else ""
            raise InvalidImageError(
                f"{self.path} takes {self.channels} channels, got images with {batch.shape[1]}{hint}"
            )
        if not self._settled:
            with _TRIAL:
                self._settle(batch)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the session, which is opened again from the same file."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = _open(self._place, *self._opening)

    def _listed_classes(self) -> tuple[str, ...] | None:
        kinds = {one.name: one.type for one in self._session.get_outputs()}
        if "string" not in kinds[self.output]:
            return None
        found = classes_in_file(self.path, self.output)
        if found is None and kinds[self.output] == "tensor(string)" and len(self._outputs) == 1:
            raise ConfigError(
                f"{self.path} answers with names of classes and does not list them; list them in the order of their "
                "labels: classes=[...] (--class-names FILE)"
            )
        return found

    def _settle(self, batch: Tensor) -> None:
        """Find, with the first images, a layout that the model works with, and whether it takes several at a time."""
        if self._settled:
            return  # another thread was faster
        chunk, _ = next(fixed_chunks(batch, self.micro_batch))
        try:
            layout = self._working_layout(chunk)
        except ClassifierError as error:
            if self.micro_batch == 1 or self._taken.batch is not None:
                raise
            try:
                layout = self._working_layout(batch[:1])
            except ClassifierError:  # it is not the number of images
                raise error from None
            if not self._may_shrink:
                raise ClassifierError(
                    f"{error}; it works with one image at a time: micro_batch=1 (--micro-batch 1)"
                ) from error
            warnings.warn(BAKED_IN.format(what=self.path, count=self.micro_batch), stacklevel=3)
            self.micro_batch = 1
        self.layout, self._settled = layout, True

    def _working_layout(self, images: Tensor) -> Layout:
        works, error, unread = {}, None, self._read
        for layout in self._taken.layouts:
            self._read = copy.copy(unread)  # the number of classes may be another one in each
            try:
                self._labels(images, layout)
                works[layout] = self._read
            except ClassifierError as failed:
                error = error or failed
        self._read = unread
        if len(works) > 1:
            raise ConfigError(
                f"{self.path} leaves the order of its axes open and works with channels first and last; say which with "
                "layout=chw or hwc (--layout chw)"
            )
        if error is not None and not works:
            raise error
        ((layout, self._read),) = works.items()
        return layout

    def _run(self, images: Tensor, layout: Layout | None = None) -> list[Any]:
        inputs = self._inputs(images, layout or self.layout or "chw")
        try:
            return list(self._session.run(self._outputs, {self._taken.name: inputs}))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise ClassifierError(f"{self.path}: the model failed: {error}") from error

    def _labels(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        answer, *names = self._run(images, layout)
        if names and self._read.classes is None:
            self._read(names[0], len(images))  # learns the names
        labels, holds_nan = self._read(answer, len(images))
        return checked_labels(labels, holds_nan)

    def _inputs(self, images: Tensor, layout: Layout) -> Any:
        """What ONNX Runtime takes, of the model's type, shape and layout."""
        sized = images if self.input_size is None else resize(images, *self.input_size)
        inputs = arranged(self.normalise(sized), layout).numpy()
        if not self._taken.has_batch:
            inputs = inputs[0]
        elif not self._taken.has_channels:
            inputs = inputs[:, 0]  # (B, 1, H, W) -> (B, H, W)
        if self._taken.dtype.kind in "iu":
            inputs = inputs.round()
        array = np.ascontiguousarray(inputs).astype(self._taken.dtype, copy=False)
        return _bfloat16(array) if self._taken.kind == "tensor(bfloat16)" else array


def _bfloat16(array: np.ndarray[Any, Any]) -> Any:
    import onnxruntime  # noqa: PLC0415 - an optional extra

    bits = torch.from_numpy(array).bfloat16().view(torch.uint16).numpy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)  # TensorProto.BFLOAT16


def _open(path: Path, threads: int, providers: Sequence[Any]) -> Any:
    """A session of ONNX Runtime. Raises MissingDependencyError without it, ClassifierError for an unusable file."""
    try:
        import onnxruntime  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx") from error
    if not path.is_file():
        raise ClassifierError(f"{path}: expected an ONNX file, found none")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
        for entry in (*session.get_inputs(), *session.get_outputs()):
            str(entry)  # raises if a name in a damaged file is no UTF-8
        dict(session.get_modelmeta().custom_metadata_map)
        return session
    except Exception as error:
        raise ClassifierError(f"{path}: not a usable ONNX model: {error}") from error
