"""Choose the arithmetic of networks: bfloat16 where the hardware multiplies it fast, else float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from maskrestore.errors import UnknownNameError

__all__ = ["Arithmetic", "Precision", "autocast", "deterministic_convolutions", "fast_arithmetic", "resolve_precision"]

Arithmetic = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]

_CUDNN_LOCK = threading.Lock()


def fast_arithmetic(device: str | torch.device = "cpu") -> Arithmetic:
    """Return ``bfloat16`` if the device has instructions for it, else ``float32``.

    A CPU without bfloat16 instructions converts every operand in software: one with AVX2 only multiplied matrices
    60 times slower in bfloat16 than in float32.
    """
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        with torch.cuda.device(place):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = place.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def resolve_precision(precision: Precision, device: str | torch.device = "cpu") -> Arithmetic:
    """Return the arithmetic that a setting selects on a device. Raises UnknownNameError for an unknown setting."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise UnknownNameError("precision", precision, ("auto", "float32", "bfloat16"))
    return fast_arithmetic(device) if precision == "auto" else precision


def autocast(device: str | torch.device = "cpu", precision: Precision = "auto") -> AbstractContextManager[None]:
    """Return a context in which networks compute in the given precision; weights stay in float32.

    Raises UnknownNameError for an unknown setting.
    """
    place = torch.device(device)
    enabled = resolve_precision(precision, place) == "bfloat16"
    return torch.autocast(place.type, torch.bfloat16, enabled=enabled)


@contextmanager
def deterministic_convolutions(device: torch.device) -> Iterator[None]:
    """A context in which a GPU's convolutions are bit-identical regardless of an image's position in the batch.

    By default cuDNN may choose kernels for float32 that are not, and kernels that round their inputs to a mantissa of
    10 bits (TF32). On other devices the context changes nothing. The settings of cuDNN belong to the process, so one
    thread at a time enters the context.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with _CUDNN_LOCK, cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield
