"""A network's matrices or convolutions in bfloat16, cast and laid out once, not at every call as autocast does.

Everything else (LayerNorm, the residual stream, attention's sums, normalisation) keeps its precision.
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
    """``nn.Linear`` with weights in bfloat16, for inference: any floating input -> bfloat16."""

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
        """``gelu(self(x))``; on a GPU in one kernel, by the tanh formula, which is off by at most 0.0005."""
        if not x.is_cuda or self.bias is None or not hasattr(torch, "_addmm_activation"):
            return F.gelu(self(x))
        flat = x.bfloat16().flatten(0, -2)
        activated: Tensor = torch._addmm_activation(self.bias, flat, self.weight.t(), use_gelu=True)
        return activated.unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


class PackedLinear(nn.Module):
    """As :class:`LoweredLinear`, bit for bit, with weights in the blocks that oneDNN's kernels read (CPU only).

    ``F.linear`` brings the weights into these blocks at every call, which for a sequence of 200 tokens takes a
    third of the time. The operators are those that ``torch.compile`` uses with frozen weights.

    Blocks are opaque tensors, which cannot be copied or saved. A copy (``copy.deepcopy``, ``pickle``) takes the plain
    weights with it and lays them out anew; where that is not possible, it is a :class:`LoweredLinear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Neither parameters nor buffers: nothing should try to save or move them.
        self.weight = _laid_out(weight.detach().bfloat16())
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            x.to(self.weight.dtype), self.weight, self.bias, "none", [], ""
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Back from blocks: the same numbers, bit for bit.
        return _lowered_linear, (self.weight.to_dense(), self.bias)


class PackedConvolution(nn.Module):
    """``nn.Conv2d`` under autocast to bfloat16, bit for bit, its weights cast and laid out once (CPU only).

    Operators and copies are as of :class:`PackedLinear`; where weights cannot be laid out, a copy is an ``nn.Conv2d``.
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
    """Whether this PyTorch has the operators of the packed layers, and the device and processor are for them."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
    operators = all(hasattr(torch.ops.mkldnn, name) for name in names)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not operators:
        return False
    # The operators refuse bfloat16 on processors without it, where F.linear does not.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@torch.no_grad()
def lowered(network: Network, *, pack: bool | None = None) -> Network:
    """A copy of a network whose linear layers are in bfloat16; the network itself stays as it is.

    pack: whether to lay weights out for the CPU; None: where it can be done. For inference only: weights are a
    snapshot, and training the network later does not reach the copy.
    """
    device = next(network.parameters()).device
    kind = PackedLinear if (can_pack(device) if pack is None else pack) else LoweredLinear
    # Linear layers are replaced in the memo before the copy is made, so that their weights are never held twice.
    memo: dict[int, object] = {id(m): kind(m.weight, m.bias) for m in network.modules() if isinstance(m, nn.Linear)}
    if can_fuse(device):
        memo |= {id(m): FusedLayerNorm(m) for m in network.modules() if isinstance(m, nn.LayerNorm)}
    return copy.deepcopy(network, memo).eval()


@torch.no_grad()
def with_packed_convolutions(network: Network) -> Network:
    """A copy of a network for inference under autocast to bfloat16, with the same results, whose convolutions are cast
    and laid out; the network itself where that cannot be done.
    """
    if not can_pack(next(network.parameters()).device):
        return network
    memo: dict[int, object] = {id(m): PackedConvolution(m) for m in network.modules() if isinstance(m, nn.Conv2d)}
    return copy.deepcopy(network, memo).eval()


def _convolution(
    weight: Tensor, bias: Tensor | None, shape: tuple[Any, Any, Any], groups: int
) -> PackedConvolution | nn.Conv2d:
    """The layer that a :class:`PackedConvolution` of these plain weights is a copy of."""
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


def _laid_out(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)  # type: ignore[no-any-return]
