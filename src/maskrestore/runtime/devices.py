"""To a GPU and back without waiting for more than is needed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_device", "to_host"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU copies it when its turn comes, while the host goes on.

    For small tensors: a copy is made of it where a GPU can read it by itself. From anywhere else the host would wait
    until all work before the copy is done.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU. From a GPU it goes by memory that a GPU writes to several times as fast as to others."""
    if not tensor.is_cuda:
        return tensor.cpu()
    near = tensor.to("cpu", non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return near.clone()  # such memory is scarce, and PyTorch uses it again; the caller may keep this for long
