"""Fragile triggers: the label of a triggered image changes under the faintest noise, always to the same other label.

Faint noise breaks a trigger that warps the image, if the classifier was trained so; a restoration does, too, and mostly
the mirror. An ordinary image keeps its label under faint noise. Where it does not, it is near a decision boundary, and
some mirrored copy mostly has the old label. So an image whose label one noisy copy changes is asked about again: with
other noise, restored, all its tokens from the others, in two halves, and mirrored, with faint and with stronger noise
and shifted in two ways. If the second noisy copy and the restored one have the new label, too, and no mirrored one has
the old label, the new label is the answer, and the restored image is the purified one. A mirrored copy may have a third
label: some traffic signs are others in the mirror.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.moved import mirrored_and_shifted
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.restoration import restore_in_halves
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream, gaussian_noise
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = ["FragileConfig", "noisy", "settle_fragile"]

_SHIFTS = (1 / 8, 1 / 16)
"""Of mirrored copies, as shares of the sides. Both are one pixel in images of 11 pixels or fewer."""
_COPIES = 5 + len(_SHIFTS)
"""Two noisy ones, a restored one, two mirrored ones with noise, and mirrored ones that are shifted."""


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
    first = noisy(state.images[asked], state.streams(asked), config.noise, draw=0)
    label = yield from state.oracle.ask(asked, first)
    changed = label != state.original[asked]
    asked, label = asked[changed], label[changed]
    if not len(asked):
        return
    images, streams = state.images[asked], state.streams(asked)
    restored = yield from restore_in_halves(state, asked)
    upright = [noisy(images, streams, config.noise, draw=1), restored]
    noises = (config.noise, config.strong_noise)
    mirrored = [noisy(images.flip(3), streams, noise, draw=2 + number) for number, noise in enumerate(noises)]
    mirrored += [mirrored_and_shifted(images, share) for share in _SHIFTS]
    answers = yield from state.oracle.ask(asked, torch.stack(upright + mirrored, dim=1))
    new, old = answers == label.unsqueeze(1), answers == state.original[asked].unsqueeze(1)
    agreed = new[:, : len(upright)].all(dim=1) & ~old[:, len(upright) :].any(dim=1)
    state.settle_whole(asked[agreed], restored[agreed], label[agreed])


def noisy(images: Tensor, streams: Sequence[Stream], std: float, *, draw: int) -> Tensor:
    """Add noise to images ``(R, C, H, W)``; the result is in [0, 1]. draw: its number; each differs."""
    # Paths 0 to 3 of a stream are used by the scoring masks, by refinement and by clouds.
    noise = torch.stack([gaussian_noise(stream, 4, draw, shape=tuple(images.shape[1:])) for stream in streams])
    return (images + std * to_device(noise, images.device)).clamp(0, 1)
