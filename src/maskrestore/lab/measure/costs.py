"""What a defense costs besides queries and seconds: passes of its generator, and memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from maskrestore.defense.pipeline import prepared_by

__all__ = ["MemoryMeter", "MemoryScope", "PassCounter", "counted_passes"]

MemoryScope = Literal["process", "process since its start", "accelerator"]
"""What a peak of memory was measured over."""

_GENERATORS = ("restorer", "denoiser")
"""Attributes under which defenses keep their generator."""


class PassCounter:
    """Stands in for a defense's generator and counts the images that go through it."""

    def __init__(self, generator: Any) -> None:
        """generator: a ``Restorer``, or the denoiser of a defense by diffusion."""
        self._generator = generator
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def prepare_images(self, images: Tensor) -> Any:
        """What the generator is given for images."""
        return prepared_by(self._generator, images)

    def restore(self, images: Any, hidden: Tensor) -> Any:
        """Restore as the generator does; an image of which nothing is hidden needs no pass."""
        self.passes += int(hidden.flatten(-2).any(dim=-1).sum())
        return self._generator.restore(images, hidden)

    def __call__(self, noisy: Tensor, step: int) -> Any:
        """Predict the noise as the denoiser does; each step is a pass for each image."""
        self.passes += len(noisy)
        return self._generator(noisy, step)


@contextmanager
def counted_passes(defense: object) -> Iterator[PassCounter | None]:
    """Count what goes through the generator of ``defense``; ``None`` for a defense that has none.

    Images that only pad a micro-batch count as passes of a denoiser.
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
    """The highest memory in use since the meter was made.

    On an accelerator: bytes that torch had allocated there. Else: the highest resident memory of this process, with
    the interpreter, the libraries, all weights and the data set in it. Only Linux lets a process reset that mark;
    elsewhere it is the highest since the process started, whatever it did before. What the allocator has not given
    back of earlier work counts: the first measurement of a process is the cleanest.
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
        """Bytes, or ``None`` where the system does not tell."""
        if self.scope == "accelerator":
            return int(torch.cuda.max_memory_allocated(self._device))
        try:
            import resource  # noqa: PLC0415 - there is none on Windows
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_peak() -> bool:
    """Set the process's mark back to what it uses now (Linux: proc(5), clear_refs)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # of glibc: give memory that is free back to the system
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
