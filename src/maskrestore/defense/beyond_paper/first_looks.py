"""First looks: a few changes in one picture, to learn with one query whether any of them changes the label.

Three stages (``moved.py``, ``fragile.py``, ``whole_image.py``) ask about one change at a time: the image mirrored,
with noise, or filtered. Most images keep their label under all of them. So several changes are made one after the
other, and only if the label is another one then is each of them tried by itself. All changes in one picture would not
do: what is left of an image then has a label of its own.

Departure: not in the BDMAE paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.filters import filtered
from maskrestore.defense.beyond_paper.fragile import noisy
from maskrestore.defense.beyond_paper.whole_image import CHANGES, MIRRORED, NOISE, WholeImageConfig
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.state import State

__all__ = ["changes_worth_a_query"]


def changes_worth_a_query(
    state: State, rows: Tensor, config: WholeImageConfig, *, noise: float
) -> Rounds[dict[str, Tensor]]:
    """For each change, the open images among ``rows`` for which it is worth a query of its own: ``(R,)`` int64.

    noise: standard deviation, for pixels in [0, 1].
    """
    none = dict.fromkeys(CHANGES, rows[:0])
    together = [names.split("+") for names in config.together]
    affordable = state.oracle.queries[rows] + len(together) <= config.query_limit
    asked = rows[affordable & ~state.settled[rows]]
    if not len(asked):
        return none
    pictures = torch.stack([_changed(state, asked, names, noise) for names in together], dim=1)
    changed = (yield from state.oracle.ask(asked, pictures)) != state.original[asked].unsqueeze(1)
    return none | {name: asked[changed[:, number]] for number, names in enumerate(together) for name in names}


def _changed(state: State, rows: Tensor, names: Sequence[str], noise: float) -> Tensor:
    """Images after some changes, one after the other: ``(R, C, H, W)``."""
    images = state.images[rows]
    for name in names:
        if name == MIRRORED:
            images = images.flip(3)
        elif name == NOISE:
            images = noisy(images, state.streams(rows), noise, draw=0)
        else:
            images = filtered(images, name)
    return images
