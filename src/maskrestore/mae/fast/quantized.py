"""Linear layers or convolutions in int8, for CPUs with int8 dot products (VNNI).

Weights have a scale for each output channel. Activations are scaled at every call by their largest absolute value, for
each token of a ViT and for each image of a convolution. So no calibration is needed, and a result does not depend on
the rest of the batch. Sums are integers and therefore exact. All other operations run as under autocast to bfloat16.
int8 is used only on request, because it is less exact; ``docs/lab-notes/performance.md`` has the numbers.
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
"""Tokens that are scaled at a time, so that they fit into the cache."""
_ZERO = 128
"""Zero point of activations: oneDNN's kernels take them as unsigned integers, in which 128 stands for 0."""
_OUTPUT: tuple[Any, ...] = (1.0, 0, torch.bfloat16, "none", [], "")
"""The operators' arguments about the output: scale, zero point, dtype, and no further operation on the product."""


class QuantizedLinear(nn.Module):
    """``nn.Linear`` in int8, for inference: input of any floating-point type, output in bfloat16."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        """weight: ``(out, in)`` int8. scales: ``(out,)`` float32. bias: ``(out,)``."""
        super().__init__()
        self.plain = weight, scales, bias  # for copies, because prepacked weights cannot be copied
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
    """``nn.Conv2d`` in int8, for inference: input of any floating-point type, output in bfloat16."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, shape: tuple[Any, Any, Any, int]) -> None:
        """weight: ``(out, in, h, w)`` int8. scales: ``(out,)`` float32. shape: stride, padding, dilation and groups."""
        super().__init__()
        self.plain = weight, scales, bias, shape
        self.weight = torch.ops.onednn.qconv_prepack(weight, scales, 1.0, _ZERO, *shape, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = _bias(bias, len(weight))[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        _, weight_scales, _, shape = self.plain
        pixels = x.permute(0, 2, 3, 1)  # in memory, channels are last already
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
    """Whether PyTorch has the operators, and the device is a CPU with VNNI instructions."""
    names = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv_pointwise")
    operators = hasattr(torch.ops, "onednn") and all(hasattr(torch.ops.onednn, name) for name in names)
    # Without VNNI, oneDNN uses kernels that are a hundred times slower.
    return device.type == "cpu" and operators and torch.cpu._is_vnni_supported()


@torch.no_grad()
def quantized(network: Network, layer: type[nn.Linear] | type[nn.Conv2d]) -> Network:
    """Return a copy of a network with its linear layers or its convolutions in int8, to be called under autocast.

    layer: the class of the layers to replace. The copy has its own weights: later training of the network does not
    change it. Raises ConfigError unless :func:`can_quantize`.
    """
    if not can_quantize(next(network.parameters()).device):
        raise ConfigError(
            "int8 needs a CPU with VNNI instructions and PyTorch's oneDNN operators; choose another precision"
        )
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
    """Rows ``(R, K)`` -> uint8 ``(R, K)`` with the zero point 128, and float32 scales ``(R, 1)``."""
    rows = rows.float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    # PyTorch converts to int8 several times faster than to uint8; flipping the top bit adds the zero point.
    numbers = (rows * scales.reciprocal()).round_().to(torch.int8)
    return numbers.view(torch.uint8).bitwise_xor_(_ZERO), scales
