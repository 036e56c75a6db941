"""LayerNorm that adds to the residual stream first, in one kernel, where a GPU has it; see ``kernels.py``."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

__all__ = ["FusedLayerNorm", "can_fuse"]


class FusedLayerNorm(nn.Module):
    """``nn.LayerNorm`` of a stream in float32, for inference: -> bfloat16, which the matrices after it want."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", norm.weight.detach().float().clone())
        self.register_buffer("bias", norm.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self._normed(x, None)[1]

    def after(self, x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """``x + change`` in float32, and that normalised, both ``(..., D)``."""
        return self._normed(x, change)

    def _normed(self, x: Tensor, change: Tensor | None) -> tuple[Tensor, Tensor]:
        from maskrestore.mae.fast.kernels import add_and_normalise  # noqa: PLC0415 - Triton is there with a GPU only

        x, change = x.contiguous(), None if change is None else change.contiguous()
        normed = torch.empty_like(x, dtype=torch.bfloat16)
        return add_and_normalise(x, change, self.weight, self.bias, self.eps, normed=normed), normed


@functools.cache
def can_fuse(device: torch.device) -> bool:
    """Whether the kernel runs on a device: Triton may be missing, and needs a C compiler at its first call."""
    if device.type != "cuda":
        return False
    try:
        FusedLayerNorm(nn.LayerNorm(8)).to(device).after(
            torch.zeros(1, 8, device=device), torch.zeros(1, 8, device=device)
        )
    except Exception:  # whatever is missing: the separate kernels do the same
        return False
    return True
