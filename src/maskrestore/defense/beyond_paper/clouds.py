"""Clouds: pictures of random colour, for the tests that need other pictures than the image.

Each is made of so many random colours along a side, scaled up to the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check

__all__ = ["CLOUD_GRIDS", "check_cloud_grids", "clouds", "pasted"]

CLOUD_GRIDS = (20, 12, 4)
"""Number of colours along a side, for each cloud; the most informative cloud comes first. They differ because a
classifier may have one label for all smooth clouds and another for all fine ones, and a cloud that has the original
label anyway tests nothing. Chosen on images of 32 x 32. With seven times finer clouds
photographs lost more clean accuracy."""


def clouds(images: Tensor, streams: Sequence[Stream], grids: Sequence[int] = CLOUD_GRIDS) -> Tensor:
    """Clouds of random colour for ``(B, C, H, W)`` images, one for each of K grids: ``(B, K, C, H, W)`` in [0, 1]."""
    channels, height, width = images.shape[1:]

    pictures = images.new_empty(len(images), len(grids), channels, height, width)
    for number, grid in enumerate(grids):
        side = min(grid, height, width)  # a larger cloud would be averaged to grey when it is shrunk
        # Paths 0 to 2 of a stream are used by the scoring masks and by refinement.
        colours = torch.stack([stream.uniform(3, grid, shape=(channels, side, side)) for stream in streams])
        pictures[:, number] = resize(colours, height, width)
    return pictures


def check_cloud_grids(grids: tuple[int, ...], name: str) -> None:
    """Raise ConfigError unless there is at least one cloud, and each has at least one colour."""
    check(len(grids) > 0 and min(grids) >= 1, name, "one or more numbers of at least 1", grids)


def pasted(images: Tensor, hidden: Tensor, pictures: Tensor, *, in_place: bool = False) -> Tensor:
    """The region ``(B, g, g)`` of images ``(B, C, H, W)`` on pictures ``(B, K, C, H, W)``.

    in_place: overwrite the pictures.
    """
    region = tokens_to_pixels(to_device(hidden, images.device), *images.shape[-2:])  # (B, 1, H, W)
    out = pictures if in_place else torch.empty_like(pictures)
    return torch.where(region.unsqueeze(1), images.unsqueeze(1), pictures, out=out)
