"""A small vision transformer for small images.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021. Departures, usual for 32x32 images: one token per 4x4
pixels, from two 3x3 convolutions instead of one 4x4 convolution, so that the network learns in fewer epochs (Xiao et
al., Early Convolutions Help Transformers See Better, 2021); fixed sine-cosine position embeddings, so that any image
size works; the mean over all tokens instead of a class token (Beyer et al., Better plain ViT baselines for ImageNet-1k,
2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError
from maskrestore.lab.victims.network import VictimNetwork

__all__ = ["ViTSmall"]

_DEPTH = 6
_HEADS = 3


class ViTSmall(VictimNetwork):
    """Six layers with ``3 * width`` channels: 192 channels and 2.8 M parameters at the full width of 64.

    ``width``, ``H`` and ``W`` are multiples of 4. Features are the tokens after the last layer, arranged as a map
    ``(B, 3*width, H/4, W/4)``. Raises ConfigError for another width.
    """

    def _build(self, num_classes: int, width: int) -> None:
        if width % 4:
            raise ConfigError(f"vit-small needs a width that is a multiple of 4, got {width}")
        size = _HEADS * width
        self.embed = nn.Sequential(
            nn.Conv2d(3, size // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(size // 2),
            nn.GELU(),
            nn.Conv2d(size // 2, size, 3, stride=2, padding=1),
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size, _HEADS, 4 * size, dropout=0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_DEPTH)
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the tokens after the final layer norm as a map ``(B, 3*width, H/4, W/4)``."""
        patches = self.embed(self.normalised(images))
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).mT  # (B, D, h, w) -> (B, h*w, D)
        tokens = tokens + _positions(height, width, tokens.shape[-1]).to(tokens)
        for layer in self.layers:
            tokens = layer(tokens)
        features: Tensor = self.norm(tokens).mT.unflatten(2, (height, width))  # (B, h*w, D) -> (B, D, h, w)
        return features

    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
        logits: Tensor = self.head(features.mean((2, 3)))  # (B, D, h, w) -> (B, D)
        return logits


def _positions(height: int, width: int, size: int) -> Tensor:
    """Return position embeddings ``(height*width, size)``.

    The first half of the channels has sines and cosines of the row, the second half those of the column.
    """
    frequencies = 10_000.0 ** -(torch.arange(size // 4) / (size // 4))
    angles = [torch.arange(extent)[:, None] * frequencies for extent in (height, width)]
    rows, columns = (torch.cat([angle.sin(), angle.cos()], 1) for angle in angles)
    grid = [rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)]
    return torch.cat(grid, 2).flatten(0, 1)  # (h, w, D) -> (h*w, D)
