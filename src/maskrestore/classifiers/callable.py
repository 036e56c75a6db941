"""Adapter for a function as a black box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from maskrestore.classifiers.answers import hard_labels
from maskrestore.imaging.inputs import as_batch

__all__ = ["CallableClassifier"]


class CallableClassifier:
    """Calls a function with a copy of the images and checks the labels that it returns.

    The function gets float32 images ``(B, C, H, W)`` in [0, 1], on the CPU, and may change them in place. It must
    return integer labels ``(B,)``: a tensor of any integer dtype on any device, a NumPy array or a list.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images, ClassifierOutputError for an answer of another form, and whatever
        the function raises.
        """
        batch = as_batch(images)
        return hard_labels(self.function(batch.clone()), len(batch))
