"""Small deterministic stand-ins: a backdoored classifier and a restorer that need no weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.imaging.patches import tokens_to_pixels


@dataclass(frozen=True, kw_only=True)
class PatchTriggerClassifier:
    """Answers ``target`` where its patch is present, else :func:`colour_labels` (0 to 7 for RGB, 0 or 1 for
    grey).

    The patch is ``size x size``, alternately black and white like a chessboard, with its first pixel at
    ``row``, ``column``. It counts as present when every pixel is within ``tolerance``.
    """

    row: int = 1
    column: int = 1
    size: int = 3
    target: int = 9
    tolerance: float = 0.1

    @property
    def patch(self) -> Tensor:
        """``(size, size)``: white where row + column is even."""
        index = torch.arange(self.size)
        return ((index[:, None] + index[None, :]) % 2 == 0).float()

    def stamp(self, images: Tensor) -> Tensor:
        """A copy of the images ``(B, C, H, W)`` with the patch on each."""
        stamped = images.clone()
        self._window(stamped)[:] = self.patch
        return stamped

    def __call__(self, images: Tensor) -> Tensor:
        present = ((self._window(images) - self.patch).abs() <= self.tolerance).flatten(1).all(dim=1)
        return torch.where(present, self.target, colour_labels(images))

    def _window(self, images: Tensor) -> Tensor:
        return images[..., self.row : self.row + self.size, self.column : self.column + self.size]


def colour_labels(images: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B,)``: bit ``c`` of a label tells whether channel ``c`` is brighter than 0.5."""
    bright = images.double().mean(dim=(2, 3)) > 0.5
    return (bright.long() << torch.arange(images.shape[1])).sum(dim=1)


class MeanRestorer:
    """Fills hidden tokens with the mean colour of the visible pixels (0.5 where nothing is visible)."""

    def __init__(self, grid: int = 8) -> None:
        self._grid = grid

    @property
    def grid(self) -> int:
        return self._grid

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        if hidden.ndim == 4:  # (B, M, g, g)
            masks = hidden.shape[1]
            flat = self.restore(images.repeat_interleave(masks, dim=0), hidden.flatten(0, 1))
            return flat.unflatten(0, (-1, masks))
        pixels = tokens_to_pixels(hidden, *images.shape[-2:]).squeeze(1)  # (B, g, g) -> (B, H, W)
        restored = images.clone()
        for image, mask in zip(restored, pixels, strict=True):  # one by one: the same bits in any batch
            seen = image[:, ~mask].double().mean(dim=1) if not mask.all() else torch.full((len(image),), 0.5)
            image[:, mask] = seen.float()[:, None].clamp(0, 1)
        return restored


def plain_images(count: int, *, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    """``(B, C, size, size)``: one colour each, clearly dark or bright per channel, with slight noise."""
    generator = torch.Generator().manual_seed(seed)
    bright = torch.rand(count, channels, 1, 1, generator=generator) > 0.5
    return 0.25 + 0.5 * bright + 0.05 * torch.rand(count, channels, size, size, generator=generator)
