"""Any function as a black box, its answers checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from maskrestore.classifiers.answers import hard_labels
from maskrestore.imaging.inputs import as_batch

__all__ = ["CallableClassifier"]


class CallableClassifier:
    """A function from images to hard labels that may be trusted with neither.

    It gets a copy of the images, float32 ``(B, C, H, W)`` in [0, 1], so that normalising them in place harms
    nobody, and must return ``(B,)`` integer labels: a tensor of any integer dtype on any device, a NumPy
    array or a list.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError, ClassifierOutputError, and whatever the function raises.
        """
        batch = as_batch(images)
        return hard_labels(self.function(batch.clone()), len(batch))
