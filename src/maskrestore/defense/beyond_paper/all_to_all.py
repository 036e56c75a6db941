"""All-to-all triggers: a target for each class. They give no label to other pictures, but change the label of all.

The transfer test (``transfer.py``) asks whether a region gives its label to pictures of random colour. If it does not,
this stage asks whether the region *changes* the label of other pictures: of the first cloud, the finest, and, if so, of
two copies of the purified image, with noise and shifted. Each is asked about with the region and without it. A trigger
changes the label of all three. A part of an ordinary image changes the label of some copies, and hardly ever that of a
fine cloud, where it is lost. The digit of a traffic sign may change all of them; but the sign keeps its label if the
digit is shown coarsely (``objects.py``), so that is asked as well.

Departure: not in the BDMAE paper, whose method believes any restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.clouds import clouds, pasted
from maskrestore.defense.beyond_paper.objects import at_resolution, shows_object
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream, gaussian_noise
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = ["PRICE", "AllToAllConfig", "changes_all", "copies"]

_SHIFT = 1 / 16
"""Of the width. What leaves a copy on one side comes back on the other."""
PRICE = 1 + 1 + 2 * 2
"""The most queries for one region: a cloud without it, the coarse region, and two copies with and without it."""


@dataclass(frozen=True, kw_only=True)
class AllToAllConfig:
    """All-to-all triggers, for restorations that failed the transfer test. Raises ConfigError."""

    noise: float = 0.1
    """Standard deviation of the noise in the first copy, for pixels in [0, 1]."""
    coarse: float = 0.5
    """Share of the resolution at which the region is shown. It is an object if the image then keeps its label."""
    query_limit: int = 47
    """Not asked if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < self.noise <= 1, "all_to_all.noise", "in (0, 1]", self.noise)
        check(0 < self.coarse < 1, "all_to_all.coarse", "in (0, 1)", self.coarse)
        check(self.query_limit >= 1, "all_to_all.query_limit", "at least 1", self.query_limit)


def changes_all(
    state: State,
    rows: Tensor,
    hidden: Tensor,
    restored: Tensor,
    config: AllToAllConfig,
    *,
    cloud: tuple[int, Tensor] | None,
) -> Rounds[Tensor]:
    """Whether the region of an image changes the label of all pictures: ``(R,)`` bool. False if it is not asked.

    hidden: ``(R, g, g)`` bool, the region. restored: ``(R, C, H, W)``, the images without it. cloud: the number of
    colours along its side, and its labels with the region, ``(R,)`` int64, which are known already; ``None``: it was
    asked about before.
    """
    found = torch.zeros_like(rows, dtype=torch.bool)
    where = (state.oracle.queries[rows] + PRICE <= config.query_limit).nonzero().squeeze(1)
    if cloud is not None and len(where):
        (grid, on_cloud), asked = cloud, rows[where]
        picture = clouds(state.images[asked], state.streams(asked), (grid,))[:, 0]
        where = where[(yield from state.oracle.ask(asked, picture)) != on_cloud[where]]
    coarse = at_resolution(config.coarse)
    where = where[~(yield from shows_object(state, rows[where], hidden[where], coarse))]
    if not len(where):
        return found
    asked = rows[where]
    pictures = copies(restored[where], state.streams(asked), config.noise)
    alone = yield from state.oracle.ask(asked, pictures)
    with_region = pasted(state.images[asked], hidden[where], pictures, in_place=True)
    changed = (yield from state.oracle.ask(asked, with_region)) != alone
    found[where] = changed.all(dim=1)
    return found


def copies(images: Tensor, streams: Sequence[Stream], noise: float) -> Tensor:
    """Copies of the images, with noise and shifted: ``(B, C, H, W)`` in [0, 1] -> ``(B, 2, C, H, W)``.

    noise: standard deviation.
    """
    # Paths 0 to 4 of a stream are used by the scoring masks, by refinement, by clouds and by the look for fragile ones.
    drawn = torch.stack([gaussian_noise(stream, 5, shape=tuple(images.shape[1:])) for stream in streams])
    noisy = (images + noise * to_device(drawn, images.device)).clamp(0, 1)
    return torch.stack([noisy, images.roll(max(1, round(_SHIFT * images.shape[-1])), dims=3)], dim=1)
