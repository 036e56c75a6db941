"""3 x 3 convolutions with a quarter of the multiplications, in float32 on a CPU: Winograd's minimal filtering.

A square of 4 x 4 outputs depends on 6 x 6 inputs. Both are brought into a basis in which convolving is multiplying
place by place: 36 products where the plain sum has 144. Sums over channels stay what they are, so what is left are 36
matrix products. Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4x4, 3x3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TILE", "WinogradConvolution"]

TILE = 4
"""Outputs along each side of a square that is computed at once."""
_WINDOW = TILE + 2  # inputs along each side

# Rows of the three transformations along one side, for the points 0, 1, -1, 2, -2 and infinity.
_INPUT = torch.tensor(
    [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ]
)
_WEIGHT = (
    torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)
_WEIGHT[-1, -1] = 1
_OUTPUT = torch.tensor(
    [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ]
)


class WinogradConvolution(nn.Module):
    """An ``nn.Conv2d`` of 3 x 3 with a padding of 1, for inference in float32; off by about 1e-5 of what goes in.

    Its matrices take four times the memory of the weights, and reading them takes time: it pays where an image has
    several squares of outputs, and many channels.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.kernel_size == (3, 3)
        assert convolution.bias is not None
        assert convolution.padding == convolution.stride[::-1] == (1, 1)
        weight = convolution.weight.detach().double()
        # (out, in, 3, 3) -> (6, 6, in, out) -> (36, in, out)
        matrices = torch.einsum("ai,bj,ocij->abco", _WEIGHT, _WEIGHT, weight).flatten(0, 1)
        self.matrices: Tensor
        self.bias: Tensor
        self.register_buffer("matrices", matrices.float().contiguous())
        self.register_buffer("bias", convolution.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W) in channels last, H and W multiples of ``TILE``."""
        count, _, height, width = x.shape
        down, across = height // TILE, width // TILE
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        # (B, H + 2, W + 2, in) -> (B, h, w, in, 6, 6) -> (6, 6, B, h, w, in)
        windows = padded.unfold(1, _WINDOW, TILE).unfold(2, _WINDOW, TILE).permute(4, 5, 0, 1, 2, 3)
        # (6, 6, B, h, w, in) -> (36, B h w, in) -> (36, B h w, out)
        products = _along_both_sides(_INPUT, windows).flatten(0, 1).flatten(1, 3) @ self.matrices
        # (36, B h w, out) -> (6, 6, B, h, w, out) -> (4, 4, B, h, w, out) -> (B, h, 4, w, 4, out)
        squares = _along_both_sides(_OUTPUT, products.view(_WINDOW, _WINDOW, count, down, across, -1))
        outputs = x.new_empty(count, down, TILE, across, TILE, len(self.bias))
        torch.add(squares.permute(2, 3, 0, 4, 1, 5), self.bias, out=outputs)  # and put in order, in one go
        return outputs.view(count, height, width, -1).permute(0, 3, 1, 2)


def _along_both_sides(transformation: Tensor, tiles: Tensor) -> Tensor:
    """``(n, n, ...)`` -> ``(m, m, ...)``, for a transformation ``(m, n)``."""
    rest = tiles.shape[2:]
    first = transformation @ tiles.reshape(len(tiles), -1)
    both = transformation @ first.view(len(transformation), tiles.shape[1], -1)
    return both.view(len(transformation), len(transformation), *rest)
