"""LayerNorm fused with the addition to the residual stream in one GPU kernel; see ``kernels.py``."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

__all__ = ["FusedLayerNorm", "can_fuse"]


class FusedLayerNorm(nn.Module):
    """``nn.LayerNorm`` of a float32 stream for inference; the result is bfloat16, as the matrices after it need."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", norm.weight.detach().float().clone())
        self.register_buffer("bias", norm.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) float32 -> (..., D) bfloat16."""
        return self._run(x, None)[1]

    def add_and_norm(self, x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x + update`` in float32, and its LayerNorm in bfloat16, both ``(..., D)``."""
        return self._run(x, update)

    def _run(self, x: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        from maskrestore.mae.fast.kernels import add_and_normalise  # noqa: PLC0415 - needs Triton, thus a GPU

        x, update = x.contiguous(), None if update is None else update.contiguous()
        normed = torch.empty_like(x, dtype=torch.bfloat16)
        return add_and_normalise(x, update, self.weight, self.bias, self.eps, normed=normed), normed


@functools.cache
def can_fuse(device: torch.device) -> bool:
    """Whether the kernel runs on a device. Triton may be missing, and its first call needs a C compiler."""
    if device.type != "cuda":
        return False
    try:
        FusedLayerNorm(nn.LayerNorm(8)).to(device).add_and_norm(
            torch.zeros(1, 8, device=device), torch.zeros(1, 8, device=device)
        )
    except Exception:  # whatever the reason, separate kernels give the same result
        return False
    return True
