"""Adapter for a PyTorch model as a black box."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.classifiers.answers import checked_labels
from maskrestore.classifiers.model_answers import ModelAnswers
from maskrestore.classifiers.model_files import load_module_file
from maskrestore.classifiers.module_copies import copied, device_of, evaluating, moved, tensors
from maskrestore.classifiers.normalisation import (
    BAKED_IN,
    ChannelOrder,
    Channelwise,
    Layout,
    Normalisation,
    arranged,
    checked_layout,
    checked_size,
    default_micro_batch,
    fixed_chunks,
)
from maskrestore.errors import ConfigError
from maskrestore.imaging.inputs import as_batch, check_pixels, unchecked_batch
from maskrestore.imaging.resize import resize
from maskrestore.runtime.precision import Precision, autocast, resolve_precision

__all__ = ["ModuleClassifier"]


_TRIAL = threading.Lock()
"""One thread at a time tries a layout; a lock of each adapter could not be pickled."""


class ModuleClassifier:
    """Runs a copy of a module on normalised images and returns labels only, never logits.

    The module itself stays as it was found: its layout, mode, device, dtype, hooks and gradients. The copy is in
    evaluation mode, and in the ``channels_last`` layout if the first call gives the same labels in it; a module that
    flattens with ``view``, for example, works in its own layout only.

    The module always gets exactly ``micro_batch`` images, so that the answer for an image does not depend on the rest
    of its batch. The last chunk of a call is padded with at most ``micro_batch - 1`` images. A large micro-batch has a
    somewhat higher throughput; a small one has a much lower latency for few images.
    """

    def __init__(
        self,
        module: nn.Module | str | Path,
        *,
        mean: Channelwise = 0.0,
        std: Channelwise = 1.0,
        pixel_range: Sequence[float] | None = None,
        channel_order: ChannelOrder | None = None,
        input_size: int | Sequence[int] | None = None,
        layout: Layout | None = None,
        output: str | int | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
        micro_batch: int | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Wrap a module.

        module: a module, or a file of TorchScript or ``torch.export``, of which nothing is unpickled. It takes
        normalised ``(B, C, H, W)`` -> logits ``(B, K)`` or labels ``(B,)``, of any floating-point dtype; for
        other answers see ``output``, ``threshold`` and ``classes``. It is copied now, so later training does not reach
        the adapter. A module that cannot be copied runs itself: in evaluation mode during a call only, and where it is.
        mean, std: in units of [0, 1] pixels, one number for all channels or one for each.
        pixel_range: what 0 and 1 become, after mean and std. None: they stay.
        channel_order: ``bgr`` for a module that takes blue first.
        input_size: ``(H, W)`` that images are resized to, or one number for both. None: they are not resized.
        layout: ``hwc`` for a module that takes the channels last, ``flat`` or ``flat-hwc`` for one that takes rows of
        numbers. None: ``chw``.
        output: key, attribute or index of the part of the module's answer that holds scores or labels. None: its only
        part, or ``logits``.
        threshold: for a module with one score for each image: the label is 1 above it, else 0.
        classes: names of the classes in the order of their labels, for a module that answers with names.
        micro_batch: images that the module gets at a time, at least 1. None: 8 on a CPU, 32 on other devices; see
        :func:`default_micro_batch`. The label of an image with two nearly equal logits can depend on it, since kernels
        round differently for different batch shapes.
        device: None: where the module is.
        precision: ``bfloat16`` runs the module under autocast; ``auto`` does so if the device is fast in bfloat16.

        Raises ConfigError for a setting out of its range, if ``module`` is neither a ``torch.nn.Module`` nor a file, or
        if it would have to be moved to ``device`` but cannot be copied; ClassifierError for a file that is refused.
        """
        self._file = Path(module).absolute() if isinstance(module, str | Path) else None
        if self._file is not None:
            module = load_module_file(self._file)
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"expected a torch.nn.Module, got a {type(module).__name__}; pass functions as they are, "
                "and ONNX files to OnnxClassifier"
            )
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
        self.normalise = Normalisation.of(mean, std, pixel_range or (0.0, 1.0), channel_order or "rgb")
        self.layout: Layout = checked_layout(layout) or "chw"
        self._read = ModelAnswers(output, threshold, classes)
        self.device = device_of(module) if device is None else torch.device(device)
        fixed_batch, fixed_size = _traced(module)
        self.micro_batch = fixed_batch or micro_batch or default_micro_batch(on_cpu=self.device.type == "cpu")
        self._may_shrink = micro_batch is None and self.micro_batch > 1 and not fixed_batch
        self.precision = resolve_precision(precision, self.device)
        self.module = module
        """As it was given."""
        self._dtype = next((one.dtype for one in tensors(module) if one.is_floating_point()), torch.float32)
        self.input_size = checked_size(input_size) or (fixed_size if self.layout == "chw" else None)
        self._runs = self._private_copy()
        self._memory_format: torch.memory_format | None = None  # decided by the first call

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their labels, if the module answers with names."""
        return self._read.classes

    @property
    def words(self) -> dict[str, str]:
        """What the module takes and answers, for people."""
        read = self._read.output
        where = "" if self._file is None else f" in {self._file}"
        return {
            "model": f"PyTorch module {getattr(self.module, 'original_name', type(self.module).__name__)}{where}",
            "input": f"{str(self._dtype).removeprefix('torch.')}, {self.layout}",
            "answer": "its only part, or logits" if read is None else f"the part {read!r}",
            "device": str(self.device),
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images, ClassifierOutputError for an output that is neither logits nor
        labels or holds NaN, and whatever the module raises.
        """
        batch, extremes = unchecked_batch(images, to_cpu=False)
        if not batch.is_cuda:
            check_pixels(batch, extremes)
        with self._running(batch):
            parts = [(self._labels(chunk), count) for chunk, count in fixed_chunks(batch, self.micro_batch)]
        if batch.is_cuda:
            check_pixels(batch, extremes)  # reading the values waits for the GPU, so first queue all work
        labels = torch.cat([labels[:count] for (labels, _), count in parts])
        return checked_labels(labels, torch.stack([holds_nan for (_, holds_nan), _ in parts]))

    def scores(self, images: Tensor) -> Tensor:
        """The module's scores ``(B, ...)`` float32 of images ``(B, C, H, W)`` in [0, 1], on the CPU.

        For those who hand them on, and not for the defense. Raises what a call raises, and ClassifierOutputError for a
        module that answers with labels.
        """
        batch = as_batch(images)
        with self._running(batch):
            parts = [
                self._read.scores(self._answer(chunk), len(chunk))[:count].float().cpu()
                for chunk, count in fixed_chunks(batch, self.micro_batch)
            ]
        return torch.cat(parts)

    @contextmanager
    def _running(self, batch: Tensor) -> Iterator[None]:
        """Run the module on chunks of the batch."""
        # One autocast context for all chunks, without inference mode, so that its cache casts each weight only once.
        with torch.no_grad(), autocast(self.device, self.precision), evaluating(self._runs):
            if self._memory_format is None:
                with _TRIAL:
                    self._settle(batch)
            yield

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the copy that runs; files are read again, and TorchScript has a format of its own."""
        state = dict(self.__dict__)
        if self._file is not None:
            state |= {"module": None, "_runs": None, "_memory_format": None}
        elif isinstance(self.module, torch.jit.ScriptModule):
            scripted = io.BytesIO()
            torch.jit.save(self.module, scripted)
            state |= {"module": scripted.getvalue(), "_runs": None, "_memory_format": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file is not None:
            self.module = load_module_file(self._file)
        elif isinstance(state["module"], bytes):
            self.module = torch.jit.load(io.BytesIO(state["module"]))
        if self._runs is None:
            self._runs = self._private_copy()

    def _labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._read(self._answer(images), len(images))

    def _answer(self, images: Tensor) -> Any:
        assert self._memory_format is not None
        return self._runs(self._inputs(images).contiguous(memory_format=self._memory_format))

    def _inputs(self, images: Tensor) -> Tensor:
        sized = images if self.input_size is None else resize(images, *self.input_size)
        return arranged(self.normalise(sized).to(self.device, self._dtype), self.layout)

    def _settle(self, batch: Tensor) -> None:
        """Choose a memory format, and micro-batches of 1 if the module fails with several images at a time."""
        if self._memory_format is not None:
            return  # another thread was faster
        chunk, _ = next(fixed_chunks(batch, self.micro_batch))
        try:
            self._memory_format = self._choose_memory_format(self._inputs(chunk))
        except Exception:  # whatever its author's code raises
            if not self._may_shrink:
                raise
            try:
                chosen = self._choose_memory_format(self._inputs(batch[:1]))
            except Exception:  # it is not the number of images
                chosen = None
            if chosen is None:
                raise
            warnings.warn(BAKED_IN.format(what="the module", count=self.micro_batch), stacklevel=2)
            self.micro_batch, self._memory_format = 1, chosen

    def _private_copy(self) -> nn.Module:
        try:
            own = copied(self.module)
            if own is not self.module:
                own = moved(own, device=self.device)
                with suppress(Exception):  # exported programs refuse; each call sets the mode of all parts
                    own.eval()
                return own
            raise TypeError("its copy is itself")
        except Exception as error:  # whatever its author's objects raise
            if device_of(self.module) != self.device:
                raise ConfigError(
                    f"the module cannot be copied ({type(error).__name__}: {error}), so it cannot be moved to "
                    f"{self.device}; move it there yourself"
                ) from error
            return self.module

    def _choose_memory_format(self, inputs: Tensor) -> torch.memory_format:
        """The one that the copy runs in from now on: a fast one, if it gives the labels of the plain one."""
        if self._runs is self.module or self.layout != "chw":
            return torch.contiguous_format
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            expected, _ = self._read(self._runs(inputs.contiguous()), len(inputs))
            fast = moved(copied(self._runs), memory_format=torch.channels_last)
            try:
                found, _ = self._read(fast(inputs.contiguous(memory_format=torch.channels_last)), len(inputs))
            except Exception:  # the module's own code, in a layout that its author did not think of
                return torch.contiguous_format
        if not torch.equal(found, expected):
            return torch.contiguous_format
        self._runs = fast
        return torch.channels_last


def _traced(module: nn.Module) -> tuple[int | None, tuple[int, int] | None]:
    """The number of images and their size that an exported program is fixed to; None where they are free."""
    if not isinstance(module, torch.fx.GraphModule):
        return None, None
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    shape = inputs[0].shape if len(inputs) == 1 and isinstance(inputs[0], Tensor) else ()
    if len(shape) != 4:
        return None, None
    batch, _, height, width = (axis if type(axis) is int else None for axis in shape)  # others are symbols
    return batch, None if height is None or width is None else (height, width)
