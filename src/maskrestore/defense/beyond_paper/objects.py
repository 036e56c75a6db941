"""Objects: a region that keeps the label of its image when it is shown coarsely shows an object.

Half a truck is a truck on any picture, so it passes the transfer test (``transfer.py``) as a trigger does. What tells
them apart is detail: a truck is a truck without it, and nearly all triggers are lost. Only large regions are asked
about, since a small trigger of one colour may survive, and small parts of objects rarely pass the transfer test.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.runtime.devices import to_device

__all__ = ["shows_object"]


def shows_object(state: State, rows: Tensor, hidden: Tensor, cells: int) -> Rounds[Tensor]:
    """Whether each image keeps its label when a region, ``(R, g, g)`` bool, is coarse: ``(R,)`` bool. One query.

    cells: places along a side of the whole image, at which it is then shown.
    """
    images = state.images[rows]
    height, width = images.shape[-2:]
    coarse = resize(resize(images, min(cells, height), min(cells, width)), height, width).clamp(0, 1)
    region = tokens_to_pixels(to_device(hidden, images.device), height, width)  # (R, 1, H, W)
    labels = yield from state.oracle.ask(rows, torch.where(region, coarse, images))
    return labels == state.original[rows]
