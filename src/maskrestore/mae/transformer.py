"""The parts of a vision transformer, named as in timm and the official masked autoencoder.

Shapes: ``B`` images, ``L = g * g`` patches, ``N`` tokens in a sequence, ``D`` wide.
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
from maskrestore.mae.packing import Filled, gather_tokens

__all__ = ["MLP", "Attention", "Block", "PatchEmbedding", "added", "sincos_positions"]


class PatchEmbedding(nn.Module):
    """Pixels of each patch -> one token."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, g*g, D)."""
        # (B, 3, S, S) -> (B, D, g, g) -> (B, D, L) -> (B, L, D)
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention over all tokens of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, asking: Tensor | None = None, filled: Filled | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, k, D) for the tokens that ask.

        asking: ``(B, k)`` positions of the tokens whose result is wanted; None: all.
        filled: tokens that nobody may look at; None: there are none.
        """
        # (B, N, 3 D) -> (B, N, 3, h, d)
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        if filled is not None and asking is None and _takes_lengths(qkv):
            # (B, N, 3, h, d) -> (B N, 3, h, d) -> (B N, h, d) -> (B, N, D)
            mixed = _attention_end_to_end(qkv.flatten(0, 1), filled.ends, x.shape[1])
            return self.proj(mixed.reshape(x.shape))  # type: ignore[no-any-return]
        # (B, N, 3, h, d) -> (3, B, h, N, d)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if asking is not None:
            # (B, h, N, d) -> (B, N, h d) -> (B, k, h d) -> (B, h, k, d)
            chosen = gather_tokens(queries.transpose(1, 2).flatten(2), asking)
            queries = chosen.unflatten(2, (self.heads, -1)).transpose(1, 2)
        # (B, N) -> (B, 1, 1, N): the same for every head and every query
        allowed = None if filled is None else filled.real[:, None, None]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
        # (B, h, k, d) -> (B, k, h, d) -> (B, k, D)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        inner = self.fc1.with_gelu(x) if isinstance(self.fc1, LoweredLinear) else F.gelu(self.fc1(x))
        return self.fc2(inner)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, round(width * mlp_ratio))

    def forward(
        self, x: Tensor, change: Tensor | None = None, *, asking: Tensor | None = None, filled: Filled | None = None
    ) -> tuple[Tensor, Tensor]:
        """A stream ``(B, N, D)`` and what is still to be added to it -> the same after this layer, ``(B, k, D)`` for
        the tokens that ask; see :class:`Attention`.

        The stream keeps its precision whatever that of the matrices. What is left to add is added with the LayerNorm
        that follows, which a GPU does in one kernel.
        """
        x, normed = added(x, change, self.norm1)
        attended = self.attn(normed, asking=asking, filled=filled)
        x, normed = added(x if asking is None else gather_tokens(x, asking), attended, self.norm2)
        return x, self.mlp(normed)


def added(x: Tensor, change: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """``x + change`` in the precision of ``x``, and that normalised; None: nothing is to be added."""
    if change is None:
        return x, norm(x)
    if isinstance(norm, FusedLayerNorm):
        return norm.after(x, change)
    x = x + change
    return x, norm(x)


def _attention_end_to_end(qkv: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Attention within sequences laid end to end, ``(T, 3, h, d)`` -> ``(T, h, d)``. What fills a sequence up is one of
    its own, of which nothing is used: cheaper than a mask."""
    attend = _varlen_attention()
    assert attend is not None
    mixed: Tensor = attend(*qkv.unbind(1), ends, ends, longest, longest)
    return mixed


def _takes_lengths(qkv: Tensor) -> bool:
    """Whether attention over ``(B, N, 3, h, d)`` can be told where sequences end."""
    head = qkv.shape[-1]
    if not qkv.is_cuda or qkv.dtype != torch.bfloat16 or head % 8 or head > 256:
        return False
    return torch.cuda.get_device_capability(qkv.device) >= (8, 0) and _varlen_attention() is not None


@functools.cache
def _varlen_attention() -> Callable[..., Any] | None:
    """PyTorch's own, from version 2.10; it takes seconds to import, so only where it is used."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415
    except ImportError:
        return None
    return varlen_attn


def sincos_positions(width: int, grid: int) -> Tensor:
    """Fixed positions of a class token and ``grid * grid`` tokens: ``(1, 1 + grid*grid, width)`` float32.

    The first half encodes the column and the second half the row, sines before cosines; the class token's are
    zeros. Source: facebookresearch/mae, ``util/pos_embed.py`` (whose variable names say row first; its
    numbers do not).
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64).outer(frequencies)
    encoded = torch.cat([angles.sin(), angles.cos()], dim=1)  # (g, D / 2)
    columns = encoded.repeat(grid, 1)
    rows = encoded.repeat_interleave(grid, dim=0)
    # (g g, D) -> (1 + g g, D) -> (1, 1 + g g, D)
    return F.pad(torch.cat([columns, rows], dim=1), (0, 0, 1, 0)).float().unsqueeze(0)
