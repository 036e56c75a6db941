"""Adapter for a function as a black box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from maskrestore.classifiers.answers import hard_labels
from maskrestore.classifiers.normalisation import checked_size
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.resize import resize

__all__ = ["CallableClassifier"]


class CallableClassifier:
    """Calls a function with a copy of the images and checks the labels that it returns.

    The function gets float32 images ``(B, C, H, W)`` in [0, 1], on the CPU, and may change them in place. It must
    return integer labels ``(B,)``: a tensor of any integer dtype on any device, a NumPy array or a list.
    """

    def __init__(self, function: Callable[[Tensor], Any], *, input_size: int | Sequence[int] | None = None) -> None:
        """Wrap a function.

        input_size: ``(H, W)`` that images are resized to for the function, or one number for both. None: it gets them
        as they are. Raises ConfigError for another size.
        """
        self.function = function
        self.input_size = checked_size(input_size)

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 of images ``(B, C, H, W)`` in [0, 1].

        Raises InvalidImageError for invalid images, ClassifierOutputError for an answer of another form, and whatever
        the function raises.
        """
        batch = as_batch(images)
        sized = batch if self.input_size is None else resize(batch, *self.input_size)
        return hard_labels(self.function(sized.clone()), len(batch))
