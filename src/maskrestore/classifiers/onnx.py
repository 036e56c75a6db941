"""Adapter for an ONNX file as a black box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.answers import labels_from_scores
from maskrestore.classifiers.normalisation import Channelwise, Normalisation, default_micro_batch, fixed_chunks
from maskrestore.errors import ClassifierError, ConfigError, InvalidImageError, MissingDependencyError
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.resize import resize

__all__ = ["OnnxClassifier"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(double)": np.dtype("float64"),
}


_INTEGERS = ("tensor(int64)", "tensor(int32)")


class OnnxClassifier:
    """Runs a model in ONNX Runtime and returns labels only, never logits.

    The file says how many channels, pixels and images at a time the model takes, and whether channels are the first or
    the last axis. Images of another size are resized (bilinear, antialiased). As in ``ModuleClassifier`` the model
    always gets chunks of one size, and by default it runs on one thread, so that its answers do not depend on the batch
    or on the load of the machine.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mean: Channelwise = 0.0,
        std: Channelwise = 1.0,
        input_size: int | tuple[int, int] | None = None,
        output: str | None = None,
        micro_batch: int | None = None,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Open a model.

        mean, std: in units of [0, 1] pixels, one number for all channels or one for each.
        input_size: ``(H, W)`` or one number for both, for a model that takes any size but was trained with one.
        output: name of the output that holds logits ``(B, K)`` or labels ``(B,)``. None: the only output that can hold
        integer labels ``(B,)``, else the only one that can hold logits.
        micro_batch: images at a time, ignored if the file fixes their number. None: 8 on a CPU, 32 on other devices, as
        in ``ModuleClassifier``.
        threads: threads within an operator.
        providers: ONNX Runtime's execution providers, in order of preference.

        Raises MissingDependencyError if ONNX Runtime is not installed; ConfigError for a setting out of its range, and
        if several outputs may be the answer and none is named; ClassifierError if the file is missing, cannot be
        loaded, or does not take one batch of images.
        """
        for name, value in (("micro_batch", micro_batch), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.path = Path(path)
        self.normalise = Normalisation.of(mean, std)
        self._session = _open(self.path, threads, providers)
        self._input, self._dtype, shape = _image_input(self._session, self.path)
        self.output = _output_name(self._session, output, self.path)
        """The output that is read."""
        self.channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
        batch, channels, height, width = (shape[i] for i in ((0, 3, 1, 2) if self.channels_last else range(4)))
        on_cpu = list(providers) == ["CPUExecutionProvider"]
        self.micro_batch = batch or micro_batch or default_micro_batch(on_cpu=on_cpu)
        self.channels = channels
        """Channels that the model takes, or None if the file does not fix them."""
        self.input_size = _input_size((height, width), input_size)
        """``(H, W)`` that images are resized to, or None if they are not resized."""

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images or another number of channels, ClassifierOutputError for an output
        that is neither logits nor labels or holds NaN, and ClassifierError if the model fails.
        """
        batch = as_batch(images)
        if self.channels not in (None, batch.shape[1]):
            raise InvalidImageError(f"{self.path} takes {self.channels} channels, got images with {batch.shape[1]}")
        chunks = fixed_chunks(batch, self.micro_batch)
        return torch.cat([self._labels(chunk)[:count] for chunk, count in chunks])

    def _labels(self, images: Tensor) -> Tensor:
        sized = images if self.input_size is None else resize(images, *self.input_size)
        inputs = self.normalise(sized)
        if self.channels_last:
            inputs = inputs.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        feed = {self._input: np.ascontiguousarray(inputs.numpy()).astype(self._dtype, copy=False)}
        try:
            (answer,) = self._session.run([self.output], feed)
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise ClassifierError(f"{self.path}: the model failed: {error}") from error
        return labels_from_scores(answer, len(images))


def _open(path: Path, threads: int, providers: Sequence[str]) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx") from error
    if not path.is_file():
        raise ClassifierError(f"{path}: expected an ONNX file, found none")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        raise ClassifierError(f"{path}: not a usable ONNX model: {error}") from error


def _image_input(session: Any, path: Path) -> tuple[str, np.dtype[Any], tuple[int | None, ...]]:
    """Name, dtype and shape of the only input; None stands for an axis of any size."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise ClassifierError(f"{path}: expected a model with one input, the images; it has {len(inputs)}: {names}")
    entry = inputs[0]
    if len(entry.shape) != 4 or entry.type not in _DTYPES:
        raise ClassifierError(
            f"{path}: expected an input of 4 axes in {', '.join(_DTYPES)}; "
            f"{entry.name!r} is {entry.type} of shape {entry.shape}"
        )
    shape = tuple(axis if isinstance(axis, int) and axis > 0 else None for axis in entry.shape)
    return entry.name, _DTYPES[entry.type], shape


def _output_name(session: Any, wanted: str | None, path: Path) -> str:
    """The output that holds the answer: the one that is wanted, or the only one that can hold it."""
    outputs = session.get_outputs()
    names = [entry.name for entry in outputs]
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"the model has no output {wanted!r}; it has: {', '.join(names)}")
        return wanted
    if len(outputs) == 1:
        return str(names[0])
    labels = [entry.name for entry in outputs if entry.type in _INTEGERS and len(entry.shape) == 1]
    rows = [entry for entry in outputs if len(entry.shape) == 2]  # indices beside scores make those ambiguous, too
    if len(labels) == 1:
        return str(labels[0])
    if not labels and len(rows) == 1 and rows[0].type in _DTYPES:
        return str(rows[0].name)
    listed = "; ".join(f"{entry.name}: {entry.type} of shape {entry.shape}" for entry in outputs)
    raise ConfigError(
        f"{path} has {len(outputs)} outputs, and it is not clear which one is the answer ({listed}); name the one that "
        "holds the scores of the classes, or the labels, with output=NAME (--output NAME)"
    )


def _input_size(fixed: tuple[int | None, int | None], wanted: int | tuple[int, int] | None) -> tuple[int, int] | None:
    size = (wanted, wanted) if isinstance(wanted, int) else wanted
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"input_size must be (H, W) or one number, at least 1, got {wanted}")
    if fixed[0] is None or fixed[1] is None:
        return size
    if size not in (None, fixed):
        raise ConfigError(f"input_size {size} does not fit the model, which takes {fixed} only; leave it out")
    return fixed[0], fixed[1]
