"""Adapter for a PyTorch model as a black box."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from maskrestore.classifiers.answers import checked_labels, unchecked_labels
from maskrestore.classifiers.normalisation import Channelwise, Normalisation, default_micro_batch, fixed_chunks
from maskrestore.errors import ConfigError
from maskrestore.imaging.inputs import check_pixels, unchecked_batch
from maskrestore.runtime.precision import Precision, autocast, resolve_precision

__all__ = ["ModuleClassifier"]


class ModuleClassifier:
    """Runs a module on normalised images and returns labels only, never logits.

    The module always gets exactly ``micro_batch`` images, so that the answer for an image does not depend on the rest
    of its batch. The last chunk of a call is padded with at most ``micro_batch - 1`` images. A large micro-batch has a
    somewhat higher throughput; a small one has a much lower latency for few images.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Channelwise = 0.0,
        std: Channelwise = 1.0,
        micro_batch: int | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Wrap a module.

        module: normalised ``(B, C, H, W)`` -> logits ``(B, K)`` or labels ``(B,)``. It is not copied: it is moved to
        ``device``, and put into evaluation mode at every call.
        mean, std: in units of [0, 1] pixels, one number for all channels or one for each.
        micro_batch: images that the module gets at a time, at least 1. None: 8 on a CPU, 32 on other devices; see
        :func:`default_micro_batch`. The label of an image with two nearly equal logits can depend on it, since kernels
        round differently for different batch shapes.
        device: None: where the module is.
        precision: ``bfloat16`` runs the module under autocast; ``auto`` does so if the device is fast in bfloat16.

        Raises ConfigError for a setting out of its range, or if ``module`` is not a ``torch.nn.Module``.
        """
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"expected a torch.nn.Module, got a {type(module).__name__}; pass functions as they are, "
                "and ONNX files to OnnxClassifier"
            )
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
        self.normalise = Normalisation.of(mean, std)
        self.device = _device_of(module) if device is None else torch.device(device)
        self.micro_batch = micro_batch or default_micro_batch(on_cpu=self.device.type == "cpu")
        self.precision = resolve_precision(precision, self.device)
        self.module = module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images, ClassifierOutputError for an output that is neither logits nor
        labels or holds NaN, and whatever the module raises.
        """
        self.module.eval()  # at every call, because the module may have been trained since the last one
        batch, extremes = unchecked_batch(images, to_cpu=False)
        if not batch.is_cuda:
            check_pixels(batch, extremes)
        chunks = fixed_chunks(batch, self.micro_batch)
        # One autocast context for all chunks, without inference mode, so that its cache casts each weight only once.
        with torch.no_grad(), autocast(self.device, self.precision):
            parts = [(self._labels(chunk), count) for chunk, count in chunks]
        if batch.is_cuda:
            check_pixels(batch, extremes)  # reading the values waits for the GPU, so first queue all work
        labels = torch.cat([labels[:count] for (labels, _), count in parts])
        return checked_labels(labels, torch.stack([holds_nan for (_, holds_nan), _ in parts]))

    def _labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.normalise(images).to(self.device, memory_format=torch.channels_last)
        return unchecked_labels(self.module(inputs), len(images))


def _device_of(module: nn.Module) -> torch.device:
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
