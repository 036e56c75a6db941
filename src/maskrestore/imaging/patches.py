"""Token maps: convert them to pixel maps and back, for a grid and an image of any size; masks of squares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pool_to_tokens", "square_masks", "tokens_to_pixels"]


def tokens_to_pixels(tokens: Tensor, height: int, width: int) -> Tensor:
    """Enlarge a token map to pixels with nearest-neighbour interpolation.

    tokens: ``(B, g, g)`` of any dtype. Returns ``(B, 1, height, width)`` of the same dtype: pixel ``(i, j)`` gets the
    value of token ``(i * g // height, j * g // width)``. Source: ``resize(m; H, W)`` in Eq. 1.
    """
    grid = tokens.shape[-1]
    rows = torch.arange(height, device=tokens.device) * grid // height
    columns = torch.arange(width, device=tokens.device) * grid // width
    # (B, g, g) -> (B, H, g) -> (B, H, W) -> (B, 1, H, W)
    return tokens[:, rows][:, :, columns].unsqueeze(1)


def pool_to_tokens(pixels: Tensor, grid: int) -> Tensor:
    """Average a pixel map over the area of each token.

    pixels: ``(B, H, W)`` float. Returns ``(B, grid, grid)``. Source: ``resize(SSIM; 14, 14)`` in section 4.2.
    """
    # (B, H, W) -> (B, 1, H, W) -> (B, 1, g, g) -> (B, g, g)
    return F.adaptive_avg_pool2d(pixels.unsqueeze(1), grid).squeeze(1)


def square_masks(corners: Tensor, side: int, grid: int) -> Tensor:
    """Masks of squares. corners: ``(K, 2)`` int64, first rows and columns. Returns ``(K, g, g)`` bool."""
    token = torch.arange(grid)
    inside = (token >= corners[..., None]) & (token < corners[..., None] + side)  # (K, 2, g)
    return inside[:, 0, :, None] & inside[:, 1, None, :]
