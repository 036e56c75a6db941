"""Linear layers or convolutions in bfloat16 whose weights are cast once, not at every call as under autocast.

On CPUs the weights are also stored in the memory layout that oneDNN's kernels need. All other operations (LayerNorm,
the residual stream, the sums of attention, normalisation) keep their precision.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.mae.fast.fused import FusedLayerNorm, can_fuse

__all__ = ["LoweredLinear", "PackedConvolution", "PackedLinear", "can_pack", "lowered", "with_packed_convolutions"]

Network = TypeVar("Network", bound=nn.Module)


class LoweredLinear(nn.Module):
    """``nn.Linear`` with bfloat16 weights, for inference: input of any floating-point type, output in bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight.detach().bfloat16())
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x.bfloat16(), self.weight, self.bias)

    def with_gelu(self, x: Tensor) -> Tensor:
        """``gelu(self(x))``. On a GPU this is one kernel with the tanh approximation, whose error is at most 0.0005."""
        if not x.is_cuda or self.bias is None or not hasattr(torch, "_addmm_activation"):
            return F.gelu(self(x))
        flat = x.bfloat16().flatten(0, -2)
        activated: Tensor = torch._addmm_activation(self.bias, flat, self.weight.t(), use_gelu=True)
        return activated.unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


class PackedLinear(nn.Module):
    """:class:`LoweredLinear` with weights in the blocked layout of oneDNN's kernels; CPU only, bit-identical results.

    ``F.linear`` converts the weights to this layout at every call, which takes a third of the time for a sequence of
    200 tokens. The operators are those that ``torch.compile`` uses with frozen weights.

    Tensors in this layout are opaque and cannot be copied or saved. ``copy.deepcopy`` and ``pickle`` therefore copy
    plain weights and pack them again; where that is not possible, the copy is a :class:`LoweredLinear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Neither a parameter nor a buffer, because an opaque tensor cannot be saved or moved.
        self.weight = _packed(weight.detach().bfloat16())
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            x.to(self.weight.dtype), self.weight, self.bias, "none", [], ""
        )

    def __reduce__(self) -> tuple[object, ...]:
        # to_dense restores the plain layout; the values are bit-identical.
        return _lowered_linear, (self.weight.to_dense(), self.bias)


class PackedConvolution(nn.Module):
    """``nn.Conv2d`` in bfloat16 with weights packed once; CPU only, bit-identical to ``nn.Conv2d`` under autocast.

    Operators and copies are like those of :class:`PackedLinear`; where packing is not possible, a copy is an
    ``nn.Conv2d``.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.shape: tuple[Any, Any, Any] = (convolution.padding, convolution.stride, convolution.dilation)
        self.groups = convolution.groups
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach().bfloat16(), *self.shape, self.groups
        )
        self.bias = None if convolution.bias is None else convolution.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x.bfloat16(), self.weight, self.bias, *self.shape, self.groups, "none", [], ""
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _convolution, (self.weight.to_dense(), self.bias, self.shape, self.groups)


def can_pack(device: torch.device) -> bool:
    """Whether PyTorch has the operators of the packed layers, and they support the device in bfloat16."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
    operators = all(hasattr(torch.ops.mkldnn, name) for name in names)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not operators:
        return False
    # Unlike F.linear, the operators fail on CPUs without bfloat16 instructions.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@torch.no_grad()
def lowered(network: Network, *, pack: bool | None = None) -> Network:
    """Return a copy of a network for inference with linear layers in bfloat16; the network itself does not change.

    pack: whether to use :class:`PackedLinear`; None: if :func:`can_pack`. The copy has its own weights: later training
    of the network does not change it.
    """
    device = next(network.parameters()).device
    kind = PackedLinear if (can_pack(device) if pack is None else pack) else LoweredLinear
    # Replacing the layers through the memo of deepcopy avoids a copy of their float32 weights.
    memo: dict[int, object] = {id(m): kind(m.weight, m.bias) for m in network.modules() if isinstance(m, nn.Linear)}
    if can_fuse(device):
        memo |= {id(m): FusedLayerNorm(m) for m in network.modules() if isinstance(m, nn.LayerNorm)}
    return copy.deepcopy(network, memo).eval()


@torch.no_grad()
def with_packed_convolutions(network: Network) -> Network:
    """Return a copy of a network with packed convolutions, for inference under autocast to bfloat16.

    The results are bit-identical. Returns the network itself where packing is not possible; see :func:`can_pack`.
    """
    if not can_pack(next(network.parameters()).device):
        return network
    memo: dict[int, object] = {id(m): PackedConvolution(m) for m in network.modules() if isinstance(m, nn.Conv2d)}
    return copy.deepcopy(network, memo).eval()


def _convolution(
    weight: Tensor, bias: Tensor | None, shape: tuple[Any, Any, Any], groups: int
) -> PackedConvolution | nn.Conv2d:
    """Rebuild a :class:`PackedConvolution` from plain weights, or an ``nn.Conv2d`` where packing is not possible."""
    padding, stride, dilation = shape
    outer, inner, *kernel = weight.shape
    size: Any = tuple(kernel)
    plain = nn.Conv2d(inner * groups, outer, size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    plain.weight = nn.Parameter(weight.float())
    plain.bias = None if bias is None else nn.Parameter(bias.float())
    return (PackedConvolution(plain) if can_pack(weight.device) else plain).eval()


def _lowered_linear(weight: Tensor, bias: Tensor | None) -> LoweredLinear | PackedLinear:
    kind = PackedLinear if can_pack(weight.device) else LoweredLinear
    return kind(weight, bias).eval()


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)  # type: ignore[no-any-return]
