"""A PyTorch model as a black box."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from maskrestore.classifiers.answers import read_labels, unread_labels
from maskrestore.classifiers.normalisation import Channelwise, Normalisation, default_micro_batch, fixed_chunks
from maskrestore.errors import ConfigError
from maskrestore.imaging.inputs import check_pixels, unread_batch
from maskrestore.runtime.precision import Precision, autocast, resolve_precision

__all__ = ["ModuleClassifier"]


class ModuleClassifier:
    """Owns a module's normalisation, device, precision and chunking; logits never leave it.

    The module always sees exactly ``micro_batch`` images (the last chunk is filled up), so that an answer
    does not depend on the batch an image travels in; at most ``micro_batch - 1`` images per call are wasted. A large
    micro-batch answers somewhat more images in a second, a small one answers a few images much sooner.
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
        """Raises ConfigError.

        module: normalised ``(B, C, H, W)`` -> logits ``(B, K)``, or labels ``(B,)``. Not copied: it moves
        to ``device`` (None: it stays where it is) and goes into evaluation mode.
        mean, std: in units of [0, 1] pixels, one for all channels or one each.
        micro_batch: None: 8 on a processor, 32 elsewhere; see :func:`default_micro_batch`. Labels can depend on it
        where a model is undecided, since kernels round differently for different batch shapes.
        precision: ``bfloat16`` runs it under autocast, ``auto`` does where the device is fast in it.
        """
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"expected a torch.nn.Module, got a {type(module).__name__}; functions need no adapter, "
                "OnnxClassifier is for files"
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

        Raises InvalidImageError, ClassifierOutputError, and whatever the module raises.
        """
        self.module.eval()  # here, because somebody may have trained it since the last call
        batch, extremes = unread_batch(images, to_cpu=False)
        if not batch.is_cuda:
            check_pixels(batch, extremes)
        chunks = fixed_chunks(batch, self.micro_batch)
        # Around all of them, and not in inference mode, so that each weight is cast once, not for every chunk.
        with torch.no_grad(), autocast(self.device, self.precision):
            parts = [(self._unread_labels(chunk), count) for chunk, count in chunks]
        if batch.is_cuda:
            check_pixels(batch, extremes)  # only now: it waits for the GPU, which should have its work by then
        labels = torch.cat([labels[:count] for (labels, _), count in parts])
        return read_labels(labels, torch.stack([holds_nan for (_, holds_nan), _ in parts]))

    def _unread_labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.normalise(images).to(self.device, memory_format=torch.channels_last)
        return unread_labels(self.module(inputs), len(images))


def _device_of(module: nn.Module) -> torch.device:
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
