"""Objects: a region that keeps the label of its image when it is shown coarsely shows an object.

Half a truck is a truck on any picture, so it passes the transfer test (``transfer.py``) as a trigger does. What tells
them apart is detail: a truck is a truck without it, and nearly all triggers are lost. Small regions are not asked
about, since they rarely hold an object, and some icons and plain patches survive.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import pasted
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.imaging.filters import rescaled

__all__ = ["at_resolution", "shows_object"]


def at_resolution(share: float) -> Callable[[Tensor], Tensor]:
    """A look at images ``(R, C, H, W)`` in [0, 1] at a share of their resolution."""
    return lambda images: torch.stack([rescaled(image, share) for image in images])


def shows_object(state: State, rows: Tensor, hidden: Tensor, coarse: Callable[[Tensor], Tensor]) -> Rounds[Tensor]:
    """Whether each image keeps its label when a region, ``(R, g, g)`` bool, is coarse: ``(R,)`` bool. One query.

    coarse: takes the detail of images ``(R, C, H, W)`` in [0, 1].
    """
    if not len(rows):
        return torch.zeros_like(rows, dtype=torch.bool)
    images = state.images[rows]
    labels = yield from state.oracle.ask(rows, pasted(coarse(images), hidden, images.unsqueeze(1)).squeeze(1))
    return labels == state.original[rows]
