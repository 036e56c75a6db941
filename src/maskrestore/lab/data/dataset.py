"""A labelled image data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ImageDataset"]


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images and their labels."""

    name: str
    """Key in ``DATASETS``."""
    images: Tensor
    """``(N, 3, H, W)`` uint8."""
    labels: Tensor
    """``(N,)`` int64: indices into ``class_names``."""
    class_names: tuple[str, ...]
    """Names of the classes; the label is the index."""
