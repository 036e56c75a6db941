"""Costs of a defense besides queries and seconds: passes of its generator and memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from maskrestore.defense.state import prepared_by

__all__ = ["MemoryMeter", "MemoryScope", "PassCounter", "counted_passes"]

MemoryScope = Literal["process", "process since its start", "accelerator"]
"""What a peak of memory was measured over."""

_GENERATORS = ("restorer", "denoiser")
"""Names of the attribute that contains a defense's generator."""


class PassCounter:
    """Wraps a defense's generator and counts the images that pass through it."""

    def __init__(self, generator: Any) -> None:
        """generator: a ``Restorer``, or the ``Denoiser`` of a diffusion defense."""
        self._generator = generator
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def prepare_images(self, images: Tensor) -> Any:
        """Prepare images as the generator does."""
        return prepared_by(self._generator, images)

    def restore(self, images: Any, hidden: Tensor) -> Any:
        """Restore as the generator does. An image with no hidden token is not counted."""
        self.passes += int(hidden.flatten(-2).any(dim=-1).sum())
        return self._generator.restore(images, hidden)

    def __call__(self, noisy: Tensor, step: int) -> Any:
        """Predict the noise as the denoiser does. Each step counts as one pass per image."""
        self.passes += len(noisy)
        return self._generator(noisy, step)


@contextmanager
def counted_passes(defense: object) -> Iterator[PassCounter | None]:
    """Count the passes through the generator of ``defense``. Yields ``None`` for a defense without one.

    For a denoiser, the images that pad a micro-batch are counted as well.
    """
    name = next((name for name in _GENERATORS if getattr(defense, name, None) is not None), None)
    if name is None:
        yield None
        return
    generator = getattr(defense, name)
    counter = PassCounter(generator)
    setattr(defense, name, counter)
    try:
        yield counter
    finally:
        setattr(defense, name, generator)


class MemoryMeter:
    """Measures the peak memory since the meter was created.

    On an accelerator: the bytes that PyTorch allocated on it. Otherwise: the peak resident memory of this process,
    including the interpreter, the libraries, all weights and the data set. Only Linux can reset this peak; on other
    systems it is the peak since the start of the process. Memory that the allocator retains from earlier work is
    included, so the first measurement of a process is the most accurate.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self.scope: MemoryScope = "process"
        if self._device.type == "cuda":
            self.scope = "accelerator"
            torch.cuda.reset_peak_memory_stats(self._device)
        elif not _reset_peak():
            self.scope = "process since its start"

    def peak(self) -> int | None:
        """Return the peak in bytes, or ``None`` when the system does not report it."""
        if self.scope == "accelerator":
            return int(torch.cuda.max_memory_allocated(self._device))
        try:
            import resource  # noqa: PLC0415 - not available on Windows
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_peak() -> bool:
    """Reset the process's peak to its current memory (Linux: proc(5), clear_refs). Returns whether that worked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc: return free memory to the system first
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
