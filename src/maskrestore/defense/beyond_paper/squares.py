"""Large faint triggers: hide whole squares, the least predictable first.

A faint pattern that covers a fifth of an image works as long as a good part of it is visible. Token by token little
tells it from the rest, and where scattered tokens are hidden it survives; hidden as a block it is gone. Two things are
known of it from the random masks: it is restored badly, and they change the label. So where no attempt was believed,
squares are hidden in the order of their mean S_i, if that and the share of masks that changed the label make them
suspicious, each with the transfer test. Departure: not in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["least_restorable_squares", "square_scores"]


def least_restorable_squares(image_scores: Tensor, count: int, side: int) -> Tensor:
    """Choose squares of ``side x side`` tokens, those with the highest mean S_i first.

    image_scores: ``(B, g, g)``. Returns ``hidden``: ``(B, count, g, g)`` bool. Each square lies more than half a side
    away from those before it, along one direction at least; where no place is left, the mask hides nothing.
    """
    grid = image_scores.shape[-1]
    side = min(side, grid)
    places = grid - side + 1
    # (B, g, g) -> (B, places, places) -> (B, P)
    means = F.avg_pool2d(image_scores.unsqueeze(1), side, stride=1).flatten(1)
    corner = torch.cartesian_prod(torch.arange(places), torch.arange(places)).view(-1, 2)  # (P, 2)
    apart = (corner.unsqueeze(0) - corner.unsqueeze(1)).abs().amax(dim=2) > side / 2  # (P, P)
    token = torch.arange(grid)
    inside = (token >= corner[..., None]) & (token < corner[..., None] + side)  # (P, 2, g)
    squares = inside[:, 0, :, None] & inside[:, 1, None, :]  # (P, g, g)
    hidden = []
    for _ in range(count):
        best = means.argmax(dim=1)
        left = means.gather(1, best.unsqueeze(1)) > -torch.inf  # (B, 1)
        hidden.append(squares[best] & left.unsqueeze(2))
        means = means.masked_fill(~apart[best], -torch.inf)
    return torch.stack(hidden, dim=1)


def square_scores(image_scores: Tensor, squares: Tensor, changed: Tensor, label_weight: float) -> Tensor:
    """How suspicious squares are: the weighted mean of the S_i of each and the share of masks that changed the label.

    image_scores: ``(B, g, g)``; squares: ``(B, K, g, g)`` bool; changed: ``(B,)`` in [0, 1]; label_weight: its weight,
    in [0, 1]. Returns ``(B, K)``, minus infinity for a square that hides nothing.
    """
    tokens = squares.flatten(2).sum(dim=2)
    image = (image_scores.unsqueeze(1) * squares).flatten(2).sum(dim=2) / tokens.clamp(min=1)
    return torch.where(tokens > 0, (1 - label_weight) * image + label_weight * changed.unsqueeze(1), -torch.inf)
