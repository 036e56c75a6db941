"""Change the size of images, the way all parts but a baseline's own transformation do."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["resize"]


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, with antialiasing where an image shrinks; images that fit already are returned as they are.

    images: ``(B, C, H, W)``. Returns ``(B, C, height, width)``; values stay within the input's range.
    """
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
