"""Convolutions whose weight gradient is fast on small feature maps, too.

oneDNN's bfloat16 weight gradient on a CPU takes a time that hardly depends on the number of positions: for
256 channels and a batch of 128 maps of 4x4, 28 ms, six times as much as the same product by one matrix
multiplication. On such maps the gradient is therefore computed as that product, of the output's gradient and
the input's unfolded windows. Large maps keep oneDNN's own, which is faster there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

__all__ = ["Convolution"]

_FEW_POSITIONS = 16
"""Largest output map, in positions, for which the product is the faster way."""


class Convolution(nn.Conv2d):
    """A square convolution without bias that keeps ``H / stride x W / stride`` positions."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__(inputs, outputs, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        positions = x.shape[-2] * x.shape[-1] // self.stride[0] ** 2
        bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if x.device.type == "cpu" and bfloat16 and torch.is_grad_enabled() and positions <= _FEW_POSITIONS:
            weight = self.weight.bfloat16()
            out: Tensor = _ProductGradient.apply(x.bfloat16(), weight, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
            return out
        stride = self.stride[0]
        if x.device.type == "cpu" and torch.is_grad_enabled() and self.weight.shape[-1] == 1 < stride:
            # The same product, without a stride: oneDNN's backward pass of the strided one writes past its memory on
            # processors with AVX2 only, for up to 4 channels that come last (seen with torch 2.13).
            return F.conv2d(x[..., ::stride, ::stride], self.weight)
        return super().forward(x)


class _ProductGradient(torch.autograd.Function):
    """``F.conv2d`` with a weight gradient by matrix multiplication."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)
        if not ctx.needs_input_grad[1]:
            return for_x, None, None, None
        outputs, channels, size, _ = weight.shape
        padded = F.pad(x, (ctx.padding,) * 4).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H', W', C)
        windows = padded.unfold(1, size, ctx.stride).unfold(2, size, ctx.stride)  # -> (B, h, w, C, k, k)
        columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels)  # -> (B*h*w, k*k*C)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)  # (B, O, h, w) -> (B*h*w, O)
        product = rows.t().contiguous() @ columns
        for_weight = product.view(outputs, size, size, channels).permute(0, 3, 1, 2)  # -> (O, C, k, k)
        return for_x, for_weight, None, None
