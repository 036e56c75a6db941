"""3 x 3 convolutions in float32 on a CPU with Winograd's minimal filtering: a quarter of the multiplications.

A tile of 4 x 4 outputs depends on 6 x 6 inputs. Inputs and weights are transformed to a basis in which the convolution
is an element-wise product: 36 multiplications for each tile and pair of channels instead of 144. Together with the sum
over input channels this makes 36 matrix products.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4x4, 3x3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["TILE", "WinogradConvolution", "is_faster"]

TILE = 4
"""Outputs along each side of a tile."""
_WINDOW = TILE + 2  # inputs along each side of a tile
_CHANNELS = 64
"""The fewest channels for which it is faster: on an AMD EPYC (AVX2) it took 0.9 of the time with 64, 1.0 with 48."""

# The matrices of the three transformations along one side, for the points 0, 1, -1, 2, -2 and infinity.
_INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_WEIGHT = (
    torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)
_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)


def is_faster(convolution: nn.Conv2d, side: int) -> bool:
    """Whether a :class:`WinogradConvolution` is faster than ``convolution`` for maps of ``side * side``.

    Its matrices take four times the memory of the weights, and reading them takes time. So a map must have more than
    one tile, and enough channels. Tiles that reach beyond the map must not add more than a third of its places (maps of
    14 x 14 and 7 x 7: 1.31; 160 channels at 14 took 0.74 of the time, 288 at 7 0.73).
    """
    covered = -(-side // TILE) * TILE
    worth_it = 3 * covered**2 <= 4 * side**2
    return side > TILE and worth_it and min(convolution.in_channels, convolution.out_channels) >= _CHANNELS


class WinogradConvolution(nn.Module):
    """``nn.Conv2d`` with a 3 x 3 kernel, padding 1 and a bias, for inference in float32.

    The error is about 1e-5 relative to the inputs. Raises ConfigError for any other convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = convolution.weight.detach(), convolution.bias
        outer, inner = convolution.out_channels, convolution.in_channels
        plain = nn.Conv2d(inner, outer, 3, padding=1, device="meta")
        if bias is None or convolution.extra_repr() != plain.extra_repr():
            raise ConfigError(f"expected a convolution like {plain}, with a bias, got {convolution}")
        # (out, in, 3, 3) -> (6, 6, in, out) -> (36, in, out)
        matrices = torch.einsum("ai,bj,ocij->abco", _WEIGHT, _WEIGHT, weight.double()).flatten(0, 1)
        self.matrices: Tensor
        self.bias: Tensor
        self.to_input_basis: Tensor
        self.from_output_basis: Tensor
        self.register_buffer("matrices", matrices.float().contiguous())
        self.register_buffer("bias", bias.detach().float().clone())
        self.register_buffer("to_input_basis", _INPUT, persistent=False)
        self.register_buffer("from_output_basis", _OUTPUT, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W), in channels-last memory if 4 divides H and W."""
        count, _, height, width = x.shape
        down, across = -(-height // TILE), -(-width // TILE)
        below, right = down * TILE - height, across * TILE - width  # of the last tiles, beyond the map
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + right, 1, 1 + below))
        # (B, H + 2, W + 2, in) -> (B, h, w, in, 6, 6) -> (6, 6, B, h, w, in)
        windows = padded.unfold(1, _WINDOW, TILE).unfold(2, _WINDOW, TILE).permute(4, 5, 0, 1, 2, 3)
        # (6, 6, B, h, w, in) -> (36, B h w, in) -> (36, B h w, out)
        products = _along_both_sides(self.to_input_basis, windows).flatten(0, 1).flatten(1, 3) @ self.matrices
        # (36, B h w, out) -> (6, 6, B, h, w, out) -> (4, 4, B, h, w, out) -> (B, h, 4, w, 4, out)
        products = products.view(_WINDOW, _WINDOW, count, down, across, len(self.bias))
        tiles = _along_both_sides(self.from_output_basis, products).permute(2, 3, 0, 4, 1, 5)
        outputs = torch.empty_like(tiles, memory_format=torch.contiguous_format)
        torch.add(tiles, self.bias, out=outputs)  # one operation adds the bias and reorders the memory
        whole = outputs.view(count, down * TILE, across * TILE, len(self.bias))
        return whole[:, :height, :width].permute(0, 3, 1, 2)


def _along_both_sides(transformation: Tensor, tiles: Tensor) -> Tensor:
    """Transform both sides of tiles: ``(n, n, ...)`` -> ``(m, m, ...)``, for a transformation ``(m, n)``."""
    rest = tiles.shape[2:]
    first = transformation @ tiles.reshape(len(tiles), -1)
    both = transformation @ first.view(len(transformation), tiles.shape[1], -1)
    return both.view(len(transformation), len(transformation), *rest)
