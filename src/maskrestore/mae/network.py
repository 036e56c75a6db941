"""The interface between restorers and networks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["MaskedAutoencoder"]


class MaskedAutoencoder(Protocol):
    """What a restorer needs of a network. ``ViTMAE`` and ``ConvMAE`` implement it.

    On a GPU its calls are captured as CUDA graphs (``cuda_graphs.py``), so they must not read values of tensors nor
    copy anything to or from the device.
    """

    @property
    def grid(self) -> int:
        """Tokens along each side."""

    @property
    def image_size(self) -> int:
        """Pixels along each side of the square input."""

    @property
    def skips_hidden(self) -> bool:
        """Whether the network computes visible tokens only; its matrices are then smaller if more are hidden."""

    @property
    def width(self) -> int:
        """Width of the matrices; narrow ones are faster in large micro-batches."""

    def in_float32(self) -> MaskedAutoencoder:
        """The form of the network to run in float32; the network itself if no other form is faster."""

    def in_bfloat16(self) -> MaskedAutoencoder:
        """The form of the network to run in bfloat16; it is called under autocast."""

    def in_int8(self) -> MaskedAutoencoder:
        """The form of the network to run in int8. Raises ConfigError where int8 is slow or missing."""

    def embed(self, images: Tensor) -> Tensor:
        """The part of the work that does not depend on the mask: ``(B, 3, S, S)`` in [0, 1] -> ``(B, ...)``."""

    def __call__(self, images: Tensor, hidden: Tensor, *, tokens: Tensor, visible: tuple[int, int]) -> Tensor:
        """Images ``(B, 3, S, S)`` in [0, 1] and masks ``(B, g, g)`` bool -> reconstructions ``(B, 3, S, S)``.

        tokens: ``embed`` of the images. visible: lower and upper bound of the number of visible tokens of each mask.
        """
