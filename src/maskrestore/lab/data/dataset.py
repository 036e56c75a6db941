"""A labelled set of images in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ImageDataset"]


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images with their labels."""

    name: str
    """Name in the registry of data sets."""
    images: Tensor
    """``(N, 3, H, W)`` uint8."""
    labels: Tensor
    """``(N,)`` int64: indices into ``class_names``."""
    class_names: tuple[str, ...]
    """The classes in the order of their labels."""
