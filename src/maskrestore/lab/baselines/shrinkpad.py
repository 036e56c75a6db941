"""ShrinkPad: shrink the image and pad it with black at a random position."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.base import TransformDefense, check, one_by_one

__all__ = ["ShrinkPadConfig", "shrink_pad"]


@dataclass(frozen=True, kw_only=True)
class ShrinkPadConfig:
    """Shrinks every image and pads it with black to its original size, at a random position.

    Source: Li et al., Backdoor Attack in the Physical World, 2021; github.com/THUYimingLi/BackdoorBox
    ``core/defenses/ShrinkPad.py``; settings of the BDMAE paper, appendix C: padding of 4 (weak) or 8 (strong) pixels
    for images of 32 pixels, 28 or 56 for images of 224, which is the same share of the side.
    Departures: images are shrunk with antialiasing, which is torchvision's default now but was not when that code was
    written; images that are not square keep their aspect ratio; the position is drawn per image, not once per data set.
    """

    padding: float = 1 / 8
    """Share of each side that becomes padding, in (0, 1)."""

    def __post_init__(self) -> None:
        check(0 < self.padding < 1, "padding", "in (0, 1)", self.padding)

    def build(self, key: Key = 0) -> TransformDefense:
        """Build the defense. ``key`` determines the positions."""
        return TransformDefense(lambda images, secret: shrink_pad(images, self.padding, secret), key=key)


def shrink_pad(images: Tensor, padding: float, key: Key) -> Tensor:
    """Shrink ``(B, C, H, W)`` images and pad them to the same shape.

    ``round(padding * side)`` rows and columns become black; at least one row and column of the image remains.
    """
    height, width = images.shape[-2:]
    rows = min(round(padding * height), height - 1)
    columns = min(round(padding * width), width - 1)

    def change(image: Tensor, stream: Stream) -> Tensor:
        top, left = (stream.uniform(0, shape=(2,)).double() * Tensor([rows + 1, columns + 1])).long().tolist()
        small = resize(image.unsqueeze(0), height - rows, width - columns).squeeze(0)
        return F.pad(small, (left, columns - left, top, rows - top))

    return one_by_one(images, key, change).clamp(0, 1)
