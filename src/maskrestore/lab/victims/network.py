"""Base class of the victim networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["VictimNetwork"]


class VictimNetwork(nn.Module, ABC):
    """Classifies images ``(B, 3, H, W)`` in [0, 1]; returns logits ``(B, num_classes)``.

    The network has two parts, ``logits = head_from_features(features(images))``. The features are the last spatial
    feature map, which class activation maps such as Grad-CAM use. The network normalises its input; ``mean`` and
    ``std`` per channel are buffers and saved with the weights. ``width`` scales all channels: 64 is the full network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 64,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        """Raises ConfigError for fewer than two classes or a width below 1."""
        super().__init__()
        if num_classes < 2 or width < 1:
            raise ConfigError(f"need num_classes >= 2 and width >= 1, got {num_classes} and {width}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self._build(num_classes, width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)``."""
        return self.head_from_features(self.features(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std``, same shape."""
        return (images - self.mean) / self.std

    @abstractmethod
    def _build(self, num_classes: int, width: int) -> None:
        """Create the layers with initial weights. Called at the end of ``__init__``."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the last feature map ``(B, C, h, w)``, which covers the image at lower resolution."""

    @abstractmethod
    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
