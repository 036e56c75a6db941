"""The parts of a vision transformer, named as in timm and the official masked autoencoder.

Shapes: ``B`` images, ``L = g * g`` patches, ``N`` tokens in a sequence, ``D`` wide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.mae.packing import gather_tokens

__all__ = ["MLP", "Attention", "Block", "PatchEmbedding", "sincos_positions"]


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

    def forward(self, x: Tensor, *, asking: Tensor | None = None, attended: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, k, D) for the tokens that ask.

        asking: ``(B, k)`` positions of the tokens whose result is wanted; None: all.
        attended: ``(B, N)`` bool, the tokens that may be looked at; None: all.
        """
        # (B, N, 3 D) -> (B, N, 3, h, d) -> (3, B, h, N, d)
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        if asking is not None:
            # (B, h, N, d) -> (B, N, h d) -> (B, k, h d) -> (B, h, k, d)
            chosen = gather_tokens(queries.transpose(1, 2).flatten(2), asking)
            queries = chosen.unflatten(2, (self.heads, -1)).transpose(1, 2)
        # (B, N) -> (B, 1, 1, N): the same for every head and every query
        allowed = None if attended is None else attended[:, None, None]
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
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, round(width * mlp_ratio))

    def forward(self, x: Tensor, *, asking: Tensor | None = None, attended: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, k, D) for the tokens that ask; see :class:`Attention`.

        The stream ``x`` keeps its precision whatever that of the matrices.
        """
        change = self.attn(self.norm1(x), asking=asking, attended=attended)
        x = (x if asking is None else gather_tokens(x, asking)) + change.to(x.dtype)
        return x + self.mlp(self.norm2(x)).to(x.dtype)  # type: ignore[no-any-return]


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
