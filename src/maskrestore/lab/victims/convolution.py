"""Convolutions whose gradients oneDNN computes slowly in bfloat16 on a CPU.

The time of its weight gradient hardly depends on the number of positions. For 256 channels and a batch of 128 maps of
4x4 it takes 28 ms, six times as long as the same product as one matrix multiplication. So on small maps the gradient is
computed as a matrix product of the output's gradient and the unfolded windows of the input. Large maps use oneDNN,
which is faster there.

Depthwise convolutions are slow with 5x5 weights and with a stride: for 672 channels, 5x5 and a batch of 32 maps of
14x14 the weight gradient takes 138 ms, and 41 ms in float32. So there both gradients are computed in float32. An
EfficientNet-Lite0 learns 1.5 to 1.8 times as fast with that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

__all__ = ["Convolution", "DepthwiseConvolution"]

_FEW_POSITIONS = 16
"""Largest output map, in positions, for which the matrix product is faster."""
_SMALL_WEIGHTS = 3
"""Side of the weights up to which a depthwise convolution without a stride is faster in bfloat16."""


class Convolution(nn.Conv2d):
    """A square convolution without bias. The output has ``H / stride x W / stride`` positions."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__(inputs, outputs, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        positions = x.shape[-2] * x.shape[-1] // self.stride[0] ** 2
        if _learns_in_bfloat16(x) and positions <= _FEW_POSITIONS:
            weight = self.weight.bfloat16()
            out: Tensor = _ProductGradient.apply(x.bfloat16(), weight, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
            return out
        stride = self.stride[0]
        if x.device.type == "cpu" and torch.is_grad_enabled() and self.weight.shape[-1] == 1 < stride:
            # The same convolution without a stride. oneDNN's backward pass of the strided one writes out of bounds on
            # processors with AVX2 only, for up to 4 channels in channels-last format (seen with torch 2.13).
            return F.conv2d(x[..., ::stride, ::stride], self.weight)
        return super().forward(x)


class DepthwiseConvolution(nn.Conv2d):
    """A square depthwise convolution with a bias. The output has ``H / stride x W / stride`` positions, rounded up."""

    bias: nn.Parameter

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        """weight: ``(C, 1, k, k)``; bias: ``(C,)``."""
        channels, _, size, _ = weight.shape
        super().__init__(channels, channels, size, stride, groups=channels)
        self.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``. An odd number of rows to pad has one more below, and of columns one more right."""
        size, stride = self.weight.shape[-1], self.stride[0]
        missing = [max(0, (-(-side // stride) - 1) * stride + size - side) for side in (x.shape[-1], x.shape[-2])]
        padded = F.pad(x, [part for one in missing for part in (one // 2, one - one // 2)])
        if _learns_in_bfloat16(x) and (size > _SMALL_WEIGHTS or stride > 1):
            weight, bias = self.weight.bfloat16(), self.bias.bfloat16()
            out: Tensor = _Float32Gradient.apply(padded.bfloat16(), weight, bias, stride)  # type: ignore[no-untyped-call]
            return out
        return F.conv2d(padded, self.weight, self.bias, stride, groups=len(self.weight))


def _learns_in_bfloat16(x: Tensor) -> bool:
    bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.device.type == "cpu" and bfloat16 and torch.is_grad_enabled()


class _Float32Gradient(torch.autograd.Function):
    """A depthwise ``F.conv2d`` with gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        settings = {"stride": ctx.stride, "groups": len(weight)}
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        exact = gradient.float()
        return (
            conv2d_input(x.shape, weight.float(), exact, **settings).to(x.dtype) if for_x else None,
            conv2d_weight(x.float(), weight.shape, exact, **settings).to(weight.dtype) if for_weight else None,
            exact.sum((0, 2, 3)).to(weight.dtype) if for_bias else None,
            None,
        )


class _ProductGradient(torch.autograd.Function):
    """``F.conv2d`` with the weight gradient as a matrix product."""

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
