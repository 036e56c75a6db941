"""A mosaic: rows and columns of small pictures and score maps with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maskrestore.lab.show.plots import COLOURS, new_figure
from maskrestore.reporting.pictures import thumbnail

__all__ = ["Tile", "mosaic"]

_GOOD, _BAD = COLOURS[0], COLOURS[1]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a mosaic. It is empty without an image and scores."""

    image: Tensor | None = None
    """``(C, H, W)`` in [0, 1]."""
    scores: Tensor | None = None
    """``(g, g)``, shown on a scale from 0 to 1."""
    text: tuple[str, bool] | None = None
    """The label below the picture, and whether it is correct. A mark shows that as well."""
    side: str = ""
    """Text to the left of the picture."""


def mosaic(table: Sequence[Sequence[Tile]], heads: Sequence[str]) -> Any:
    """Draw rows of tiles with column titles. Returns a matplotlib figure.

    Raises MissingDependencyError without matplotlib.
    """
    scored = any(tile.scores is not None for tiles in table for tile in tiles)
    figure = new_figure(width=1.4 + 1.35 * len(heads), height=0.5 + 1.62 * len(table) + 0.6 * scored)
    figure.set_layout_engine("compressed")  # the layout for axes with a fixed aspect ratio
    grid = figure.subplots(len(table), len(heads), squeeze=False)
    scores: Any = None
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    for line, tiles in zip(grid, table, strict=True):
        for axes, tile in zip(line, tiles, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(tile.image is not None or tile.scores is not None)
            if tile.image is not None:
                axes.imshow(thumbnail(tile.image), interpolation="nearest")
            if tile.scores is not None:
                scores = axes.imshow(tile.scores.numpy(), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            if tile.text is not None:
                answer, right = tile.text
                text = f"{'✓' if right else '✗'} {_short(answer, 18)}"
                axes.set_xlabel(text, fontsize=8, color=_GOOD if right else _BAD)
            if tile.side:
                axes.set_ylabel(tile.side.replace(" ", "\n", 1), fontsize=8)
    if scores is not None:
        bar = figure.colorbar(scores, ax=grid, location="bottom", fraction=0.02, aspect=40, shrink=0.4)
        bar.set_label("score", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return figure


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
