"""The transfer test: does the suspicious region decide the label of other pictures, too?

A trigger brings its label to any picture that it is put on; a part of an ordinary image does not. So a restoration that
changed the label is believed only if the region that it replaced brings the original label to other pictures: it is
pasted, at its place, on clouds of random colour. In the first attempt, which rarely changes the label of a clean image,
most clouds must get the label; in later attempts all of them.

A trigger with a target for each class (all-to-all) does not bring one label along, but it changes every label. So where
the clouds do not get the label in the first attempt, the region is also believed if it changes the label of most clouds
and of every mirrored or turned copy of the purified image.

A large part of an ordinary image is much of what the image shows, and keeps its label on smooth clouds, but not where
every pixel around it is noise. A large trigger keeps it there, too. So squares (``squares.py``) use finer clouds.

Source of the idea: SentiNet (Chou et al., 2020), which pastes the salient region onto held-out clean images. Here no
other image is needed. Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.settings import check, check_types

__all__ = [
    "CLOUD_GRIDS",
    "TURNS",
    "Attempt",
    "TransferTestConfig",
    "clouds",
    "on_clouds",
    "transfer_test",
    "try_restoration",
    "turned",
]

CLOUD_GRIDS = (20, 12, 4)
"""Colours along each side of each cloud; the cloud that tells most comes first. A classifier may answer one label for
all smooth noise and another for fine noise, and a picture that has the original label anyway tests nothing. Chosen on
images of 32 x 32; what a larger image needs has not been measured."""
TURNS = 3
"""Copies of the purified image: mirrored, turned by a quarter, turned by a half."""


@dataclass(frozen=True, kw_only=True)
class TransferTestConfig:
    """The transfer test. Raises ConfigError."""

    cloud_grids: tuple[int, ...] = CLOUD_GRIDS
    """Colours along each side of each cloud; one query for each."""
    enough_clouds: int = 2
    """Clouds that must get the label in the first attempt, or all if there are fewer. In later attempts, and with
    squares and group testing, all must."""
    comparison: bool = True
    """Whether the first attempt also looks for a trigger with a target for each class."""

    def __post_init__(self) -> None:
        check_types(self)
        check_cloud_grids(self.cloud_grids, "transfer_test.cloud_grids")
        check(self.enough_clouds >= 1, "transfer_test.enough_clouds", "at least 1", self.enough_clouds)

    @property
    def clouds(self) -> int:
        """How many clouds are asked about."""
        return len(self.cloud_grids)

    def max_queries(self, attempts: int) -> int:
        """Queries for an image at most, over its attempts: the comparison belongs to the first one."""
        return attempts * self.clouds + (self.clouds + 2 * TURNS if self.comparison else 0)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Restorations of ``R`` images that are to be tested."""

    restored: Tensor
    """``(R, C, H, W)`` in [0, 1]."""
    hidden: Tensor
    """``(R, g, g)`` bool: the tokens that were restored."""
    labels: Tensor
    """``(R,)`` int64: labels of ``restored``."""


def try_restoration(
    state: State,
    rows: Tensor,
    restored: Tensor,
    hidden: Tensor,
    test: TransferTestConfig | None,
    *,
    first: bool = False,
    grids: Sequence[int] | None = None,
) -> Rounds[None]:
    """Ask about a restoration of each image, and settle the images whose restoration passes the test.

    restored: ``(R, C, H, W)``; hidden: ``(R, g, g)``. test: ``None`` lets every restoration pass. first: whether this
    is the first attempt, which needs fewer clouds and makes the comparison. grids: of the clouds, if not the test's.
    """
    attempt = Attempt(restored=restored, hidden=hidden, labels=(yield from state.oracle.ask(rows, restored)))
    believed = torch.ones_like(rows, dtype=torch.bool)
    if test is not None:
        chosen = test.cloud_grids if grids is None else grids
        enough, compare = (test.enough_clouds, test.comparison) if first else (len(chosen), False)
        believed = yield from transfer_test(state, rows, attempt, grids=chosen, enough=enough, compare=compare)
    state.settle(rows[believed], restored[believed], hidden[believed], attempt.labels[believed])


def transfer_test(
    state: State, rows: Tensor, attempt: Attempt, *, grids: Sequence[int], enough: int, compare: bool
) -> Rounds[Tensor]:
    """Whether what was restored in each image behaves like a trigger, ``(R,)`` bool.

    It does not where the label is what it was; that costs no query. Else a query is spent on each cloud, as many again
    for a comparison, and ``2 * TURNS`` if the comparison goes on to the turned copies.

    grids: colours along the sides of the clouds. enough: how many clouds must get the original label; all, if there are
    fewer. compare: where they do not, look for a trigger with a target for each class, which changes as many labels.
    """
    found = torch.zeros_like(rows, dtype=torch.bool)
    changed = (state.original[rows] != attempt.labels).nonzero().squeeze(1)
    if not len(changed):
        return found
    asked, hidden = rows[changed], attempt.hidden[changed]
    brings, changes = yield from on_clouds(state, asked, hidden, grids=grids, enough=enough, compare=compare)
    found[changed] = brings
    rest = changes.nonzero().squeeze(1)
    if len(rest):
        copies = turned(attempt.restored[changed[rest]])
        pasted = _pasted(state.images[asked[rest]], hidden[rest], copies)
        with_region = yield from state.oracle.ask(asked[rest], pasted)
        without = yield from state.oracle.ask(asked[rest], copies)
        found[changed[rest]] = (with_region != without).all(dim=1)
    return found


def on_clouds(
    state: State, rows: Tensor, hidden: Tensor, *, grids: Sequence[int], enough: int, compare: bool
) -> Rounds[tuple[Tensor, Tensor]]:
    """Put the region ``hidden``, ``(R, g, g)`` bool, of each image on a cloud of each grid, and ask.

    enough: how many clouds are enough; all, if there are fewer. compare: where too few get the label of the image, ask
    about the clouds themselves, too.

    Returns two ``(R,)`` bool: whether the label of the image comes along to enough clouds, and whether enough clouds
    change their label (False where that was not asked).
    """
    enough = min(enough, len(grids))
    images = state.images[rows]
    pictures = clouds(images, state.streams(rows), grids)
    answers = yield from state.oracle.ask(rows, _pasted(images, hidden, pictures))
    brings = (answers == state.original[rows].unsqueeze(1)).sum(dim=1) >= enough
    changes = torch.zeros_like(brings)
    rest = (~brings).nonzero().squeeze(1)
    if compare and len(rest):
        alone = yield from state.oracle.ask(rows[rest], pictures[rest])
        changes[rest] = (answers[rest] != alone).sum(dim=1) >= enough
    return brings, changes


def clouds(images: Tensor, streams: Sequence[Stream], grids: Sequence[int] = CLOUD_GRIDS) -> Tensor:
    """Clouds of random colour for ``(B, C, H, W)`` images, one for each of K grids: ``(B, K, C, H, W)`` in [0, 1]."""
    channels, height, width = images.shape[1:]

    def cloud(grid: int) -> Tensor:
        side = min(grid, height, width)  # shrinking would make the colours grey
        # Paths 0 to 2 of a stream belong to the scoring masks and to refinement.
        colours = torch.stack([stream.uniform(3, grid, shape=(channels, side, side)) for stream in streams])
        return resize(colours, height, width).to(images)

    return torch.stack([cloud(grid) for grid in grids], dim=1)


def turned(images: Tensor) -> Tensor:
    """Copies of the images, mirrored and turned: ``(B, C, H, W)`` -> ``(B, TURNS, C, H, W)``."""
    quarter = resize(images.rot90(1, (2, 3)), *images.shape[-2:])  # an image that is not square swaps its sides
    return torch.stack([images.flip(3), quarter, images.rot90(2, (2, 3))], dim=1)


def check_cloud_grids(grids: tuple[int, ...], name: str) -> None:
    """Raise ConfigError unless there is a cloud, and each has a colour."""
    check(len(grids) > 0 and min(grids) >= 1, name, "one or more numbers of at least 1", grids)


def _pasted(images: Tensor, hidden: Tensor, pictures: Tensor) -> Tensor:
    """The region ``(B, g, g)`` of images ``(B, C, H, W)`` on pictures ``(B, K, C, H, W)``."""
    region = tokens_to_pixels(to_device(hidden, images.device), *images.shape[-2:])  # (B, 1, H, W)
    return torch.where(region.unsqueeze(1), images.unsqueeze(1), pictures)
