"""The parts of a vision transformer, named as in timm and the official masked autoencoder.

Shapes: ``B`` images, ``L = g * g`` patches, ``N`` tokens in a sequence, width ``D``, ``h`` heads of width ``d``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.mae.fast.fused import FusedLayerNorm
from maskrestore.mae.fast.lowered import LoweredLinear
from maskrestore.mae.packing import SequencePadding, gather_tokens

__all__ = ["MLP", "Attention", "Block", "PatchEmbedding", "add_and_norm", "sincos_positions"]


class PatchEmbedding(nn.Module):
    """Projects the pixels of each patch to one token."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, L, D)."""
        # (B, 3, S, S) -> (B, D, g, g) -> (B, D, L) -> (B, L, D)
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention over all tokens of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, *, query_positions: Tensor | None = None, padding: SequencePadding | None = None
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, k, D) with ``query_positions``.

        query_positions: ``(B, k)`` int64, the tokens to compute the result for; None: all tokens.
        padding: tokens that no other token attends to; None: there are none.
        """
        # (B, N, 3 D) -> (B, N, 3, h, d)
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        if padding is not None and query_positions is None and _supports_packed_attention(qkv):
            # (B, N, 3, h, d) -> (B N, 3, h, d) -> (B N, h, d) -> (B, N, D)
            mixed = _packed_attention(qkv.flatten(0, 1), padding.boundaries, x.shape[1])
            return self.proj(mixed.reshape(x.shape))  # type: ignore[no-any-return]
        # (B, N, 3, h, d) -> (3, B, h, N, d)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if query_positions is not None:
            # (B, h, N, d) -> (B, N, h d) -> (B, k, h d) -> (B, h, k, d)
            chosen = gather_tokens(queries.transpose(1, 2).flatten(2), query_positions)
            queries = chosen.unflatten(2, (self.heads, -1)).transpose(1, 2)
        # (B, N) -> (B, 1, 1, N): the same for every head and every query
        allowed = None if padding is None else padding.real[:, None, None]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
        # (B, h, k, d) -> (B, k, h, d) -> (B, k, D)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        inner = self.fc1.with_gelu(x) if isinstance(self.fc1, LoweredLinear) else F.gelu(self.fc1(x))
        return self.fc2(inner)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer layer: attention, then an MLP, each with a residual connection."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, round(width * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        update: Tensor | None = None,
        *,
        query_positions: Tensor | None = None,
        padding: SequencePadding | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Apply the layer to a residual stream whose last update has not been added yet.

        x: the stream, ``(B, N, D)``. update: the output of the layer before, still to be added to the stream, of the
        same shape; None: nothing. query_positions, padding: see :class:`Attention`. Returns the stream and the update
        of this layer, ``(B, N, D)`` each, or ``(B, k, D)`` with ``query_positions``.

        The stream keeps its own precision, whatever that of the matrices. An update is added together with the
        LayerNorm that follows it, because a GPU does both in one kernel.
        """
        x, normed = add_and_norm(x, update, self.norm1)
        attended = self.attn(normed, query_positions=query_positions, padding=padding)
        x = x if query_positions is None else gather_tokens(x, query_positions)
        x, normed = add_and_norm(x, attended, self.norm2)
        return x, self.mlp(normed)


def add_and_norm(x: Tensor, update: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return ``x + update`` in the precision of ``x``, and ``norm`` of it. update: None adds nothing."""
    if update is None:
        return x, norm(x)
    if isinstance(norm, FusedLayerNorm):
        return norm.add_and_norm(x, update)
    x = x + update
    return x, norm(x)


def _packed_attention(qkv: Tensor, boundaries: Tensor, longest: int) -> Tensor:
    """Attention within concatenated sequences, ``(T, 3, h, d)`` -> ``(T, h, d)``.

    Padding counts as a sequence of its own, whose result is not used; this is cheaper than an attention mask.
    """
    attend = _varlen_attention()
    assert attend is not None
    mixed: Tensor = attend(*qkv.unbind(1), boundaries, boundaries, longest, longest)
    return mixed


def _supports_packed_attention(qkv: Tensor) -> bool:
    """Whether :func:`_packed_attention` works for ``(B, N, 3, h, d)`` of this dtype, on this device."""
    head = qkv.shape[-1]
    if not qkv.is_cuda or qkv.dtype != torch.bfloat16 or head % 8 or head > 256:
        return False
    return torch.cuda.get_device_capability(qkv.device) >= (8, 0) and _varlen_attention() is not None


@functools.cache
def _varlen_attention() -> Callable[..., Any] | None:
    """PyTorch's attention for concatenated sequences, or None before version 2.10. Its import takes seconds."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415
    except ImportError:
        return None
    return varlen_attn


def sincos_positions(width: int, grid: int) -> Tensor:
    """Fixed position embeddings of a class token and ``grid * grid`` tokens: ``(1, 1 + grid*grid, width)`` float32.

    The first half of the width encodes the column and the second half the row, each with sines before cosines. The
    class token has zeros. width: a multiple of 4.

    Source: facebookresearch/mae, ``util/pos_embed.py``. Its variable names suggest that rows come first, but its output
    has columns first.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64).outer(frequencies)
    encoded = torch.cat([angles.sin(), angles.cos()], dim=1)  # (g, D / 2)
    columns = encoded.repeat(grid, 1)
    rows = encoded.repeat_interleave(grid, dim=0)
    # (g g, D) -> (1 + g g, D) -> (1, 1 + g g, D)
    return F.pad(torch.cat([columns, rows], dim=1), (0, 0, 1, 0)).float().unsqueeze(0)
