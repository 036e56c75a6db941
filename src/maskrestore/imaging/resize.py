"""Resize images. Everything in the package uses this function, except baselines with a transformation of their own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["resize"]


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize with bilinear interpolation, with antialiasing when the image shrinks.

    images: ``(B, C, H, W)`` float. Returns ``(B, C, height, width)``, with values within the range of the input. Images
    that already have this size are returned without a copy.
    """
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
