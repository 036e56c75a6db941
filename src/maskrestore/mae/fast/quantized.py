"""A network's matrices or convolutions in int8, for processors with int8 dot products (VNNI).

Weights have a scale for each output channel. What they are multiplied with is scaled anew at every call, each token
of a ViT and each image of a convolution by its own largest value: nothing has to be calibrated, and a result does not
depend on what else is in the batch. Sums are whole numbers, so they are exact. Everything else is as under autocast to
bfloat16. A restorer uses this where it is asked for, never by itself: see ``docs/performance.md`` for what it costs.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["QuantizedConvolution", "QuantizedLinear", "can_quantize", "quantized"]

Network = TypeVar("Network", bound=nn.Module)

_ROWS = 256
"""Tokens that are scaled at a time: so many fit into the cache."""
_ZERO = 128
"""oneDNN's kernels for these operators want unsigned numbers on this side: 128 stands for 0."""
_OUTPUT: tuple[Any, ...] = (1.0, 0, torch.bfloat16, "none", [], "")
"""Scale, zero, type and what follows the product: nothing does."""


class QuantizedLinear(nn.Module):
    """``nn.Linear`` in int8, for inference: any floating input -> bfloat16."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        """weight: ``(out, in)`` int8; scales: ``(out,)`` float32."""
        super().__init__()
        self.plain = weight, scales, bias  # what a copy is made of: the kernel's own form cannot be copied
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = _bias(bias, len(weight))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        parts = [self._product(rows) for rows in x.reshape(-1, x.shape[-1]).split(_ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*x.shape[:-1], -1)

    def _product(self, rows: Tensor) -> Tensor:
        numbers, scales = _quantized_rows(rows)
        product = torch.ops.onednn.qlinear_pointwise(
            *(numbers, 1.0, _ZERO, self.weight, self.plain[1], self.zeros, None), *_OUTPUT
        )
        return torch.addcmul(self.bias, product, scales.bfloat16(), out=product)

    def __reduce__(self) -> tuple[object, ...]:
        return _copied, (QuantizedLinear, *self.plain)


class QuantizedConvolution(nn.Module):
    """``nn.Conv2d`` in int8, for inference: any floating input -> bfloat16."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, shape: tuple[Any, Any, Any, int]) -> None:
        """weight: ``(out, in, h, w)`` int8; scales: ``(out,)`` float32; shape: stride, padding, dilation, groups."""
        super().__init__()
        self.plain = weight, scales, bias, shape
        self.weight = torch.ops.onednn.qconv_prepack(weight, scales, 1.0, _ZERO, *shape, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = _bias(bias, len(weight))[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        _, weight_scales, _, shape = self.plain
        pixels = x.permute(0, 2, 3, 1)  # channels last in memory: this moves nothing
        numbers, scales = _quantized_rows(pixels.flatten(1))
        product = torch.ops.onednn.qconv_pointwise(
            numbers.view(pixels.shape).permute(0, 3, 1, 2),
            *(1.0, _ZERO, self.weight, weight_scales, self.zeros, None, *shape),
            *_OUTPUT,
        )
        return torch.addcmul(self.bias, product, scales.bfloat16()[:, :, None, None])

    def __reduce__(self) -> tuple[object, ...]:
        return _copied, (QuantizedConvolution, *self.plain)


def can_quantize(device: torch.device) -> bool:
    """Whether this PyTorch has the operators, and the device and processor are fast with them."""
    names = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv_pointwise")
    operators = hasattr(torch.ops, "onednn") and all(hasattr(torch.ops.onednn, name) for name in names)
    # Without VNNI oneDNN falls back to kernels a hundred times slower.
    return device.type == "cpu" and operators and torch.cpu._is_vnni_supported()


@torch.no_grad()
def quantized(network: Network, layer: type[nn.Linear] | type[nn.Conv2d]) -> Network:
    """A copy of a network whose linear layers or whose convolutions are in int8, to be called under autocast.

    Weights are a snapshot. Raises ConfigError where int8 is not fast.
    """
    if not can_quantize(next(network.parameters()).device):
        raise ConfigError("int8 needs a CPU with VNNI instructions and PyTorch's oneDNN operators; leave precision out")
    memo: dict[int, object] = {id(m): _quantized_layer(m) for m in network.modules() if isinstance(m, layer)}
    return copy.deepcopy(network, memo).eval()


def _quantized_layer(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    weight = layer.weight.detach()
    scales = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    numbers = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(numbers, scales, layer.bias)
    return QuantizedConvolution(
        numbers, scales, layer.bias, (layer.stride, layer.padding, layer.dilation, layer.groups)
    )


def _bias(bias: Tensor | None, channels: int) -> Tensor:
    return (torch.zeros(channels) if bias is None else bias).detach().bfloat16()


def _copied(kind: type[nn.Module], *plain: object) -> nn.Module:
    return kind(*plain).eval()


def _quantized_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``(R, K)`` -> uint8 of the same shape, 128 for 0, and ``(R, 1)`` float32 scales."""
    rows = rows.float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    # By way of int8, which PyTorch converts to several times faster than to uint8.
    numbers = (rows * scales.reciprocal()).round_().to(torch.int8)
    return numbers.view(torch.uint8).bitwise_xor_(_ZERO), scales
