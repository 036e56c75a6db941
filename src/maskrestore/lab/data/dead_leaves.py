"""Rendered pictures of overlapping discs, where a method needs pictures that are no images of its task."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, Stream

__all__ = ["dead_leaves"]


def dead_leaves(count: int, size: int, key: Key, *, leaves: int = 64) -> Tensor:
    """Render pictures of overlapping discs with random positions, sizes and colours.

    They have edges and object sizes as in photographs, but no other content. leaves: number of discs per picture.
    Returns ``(count, 3, size, size)`` in [0, 1]. Source: Lee, Mumford and Huang, Occlusion Models for Natural Images,
    2001; the logarithm of the sizes is uniform.
    """
    stream = Stream(key, torch.zeros(1, 1, 1))
    places, radii, colours = (
        stream.uniform(path, shape=(leaves, count, numbers)).view(leaves, count, numbers, 1, 1)
        for path, numbers in enumerate((2, 1, 3))
    )
    pixel = (torch.arange(size) + 0.5) / size
    pictures = stream.uniform(3, shape=(count, 3, 1, 1)).expand(-1, -1, size, size)
    for place, radius, colour in zip(places, radii, colours, strict=True):  # each of shape (count, ., 1, 1)
        down, right = pixel.unsqueeze(1) - place[:, :1], pixel - place[:, 1:]
        inside = down.square() + right.square() < (0.03 * 16**radius).square()  # radii of 3 to 48 % of the side
        pictures = torch.where(inside, colour, pictures)
    return pictures
