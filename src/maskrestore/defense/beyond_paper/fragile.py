"""Fragile triggers: the label of a triggered image changes under the faintest noise, always to the same other label.

A trigger that warps the image works only if every pixel is as the attacker left it, if the classifier was trained so.
An ordinary image keeps its label under faint noise, and where it does not, other small changes rarely agree on another
label. So an image whose label one noisy copy changes is asked about again: with faint and with stronger noise, three
times each, and restored twice, all its tokens from the others, in two halves and in four quarters. If all copies have
one other label, it is the answer, and the image restored in quarters is the purified one.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.restoration import restore_in_parts
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream, gaussian_noise
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = ["FragileConfig", "noisy", "settle_fragile"]

_AGAIN = 3
"""Copies with either noise, besides the first one."""
_COPIES = 1 + 2 * _AGAIN + 2
"""All noisy ones, and two restored ones."""


@dataclass(frozen=True, kw_only=True)
class FragileConfig:
    """Fragile triggers, for images that are still open. Raises ConfigError."""

    noise: float = 0.02
    """Standard deviation of the faint noise, for pixels in [0, 1]."""
    strong_noise: float = 0.05
    """That of the stronger noise."""
    query_limit: int = 47
    """Not tried if the image could then need more queries than this in all."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("noise", "strong_noise"):
            check(0 < getattr(self, name) <= 1, f"fragile.{name}", "in (0, 1]", getattr(self, name))
        check(self.query_limit >= 1, "fragile.query_limit", "at least 1", self.query_limit)


def settle_fragile(state: State, rows: Tensor, config: FragileConfig) -> Rounds[None]:
    """Settle the images among ``rows`` that are open and whose trigger breaks under small changes."""
    asked = rows[~state.settled[rows] & (state.oracle.queries[rows] + _COPIES <= config.query_limit)]
    if not len(asked):
        return
    images, streams = state.images[asked], state.streams(asked)
    first = (yield from state.oracle.ask(asked, noisy(images, streams, config.noise, range(1)))).squeeze(1)
    changed = first != state.original[asked]
    asked, label = asked[changed], first[changed]
    if not len(asked):
        return
    images, streams = state.images[asked], state.streams(asked)
    halves = yield from restore_in_parts(state, asked, 1)
    quarters = yield from restore_in_parts(state, asked, 2)
    again, strong = range(1, 1 + _AGAIN), range(1 + _AGAIN, 1 + 2 * _AGAIN)
    faint_copies = noisy(images, streams, config.noise, again)
    strong_copies = noisy(images, streams, config.strong_noise, strong)
    copies = torch.cat([faint_copies, strong_copies, torch.stack([halves, quarters], dim=1)], dim=1)
    agreed = ((yield from state.oracle.ask(asked, copies)) == label.unsqueeze(1)).all(dim=1)
    state.settle_whole(asked[agreed], quarters[agreed], label[agreed])


def noisy(images: Tensor, streams: Sequence[Stream], std: float, draws: range) -> Tensor:
    """Copies of images ``(R, C, H, W)`` with noise: ``(R, K, C, H, W)``, all in [0, 1].

    draws: numbers of the K draws; each differs.
    """
    # Paths 0 to 3 of a stream are used by the scoring masks, by refinement and by clouds.
    noise = torch.stack(
        [
            torch.stack([gaussian_noise(stream, 4, draw, shape=tuple(images.shape[1:])) for draw in draws])
            for stream in streams
        ]
    )
    return (images.unsqueeze(1) + std * to_device(noise, images.device)).clamp(0, 1)
