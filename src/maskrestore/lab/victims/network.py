"""What all networks of victims have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["VictimNetwork"]


class VictimNetwork(nn.Module, ABC):
    """Classifier of images ``(B, 3, H, W)`` in [0, 1]; answers logits ``(B, num_classes)``.

    It is cut in two where a class activation map (Grad-CAM and its kin) looks at it:
    ``logits = head_from_features(features(images))``, the features being the last map with places. The
    normalisation, ``mean`` and ``std`` per channel, is inside, so that it travels with the weights. ``width``
    scales all channels: 64 is the full network.
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
        """Raise ConfigError for fewer than two classes or no width."""
        super().__init__()
        if num_classes < 2 or width < 1:
            raise ConfigError(f"need num_classes >= 2 and width >= 1, got {num_classes} and {width}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self._build(num_classes, width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head_from_features(self.features(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Return images with mean 0 and deviation 1 in each channel."""
        return (images - self.mean) / self.std

    @abstractmethod
    def _build(self, num_classes: int, width: int) -> None:
        """Make the layers, with fresh weights; the end of construction."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the last feature map ``(B, C, h, w)``; its places are those of the image, ``h`` and ``w`` fewer."""

    @abstractmethod
    def head_from_features(self, features: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of a feature map."""
