"""The columns of pictures that a report draws for each entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from maskrestore.reporting.entries import Evidence, Map, ReportEntry
from maskrestore.reporting.pictures import Picture, colourise, difference, mark_hidden

__all__ = ["COLUMNS", "Column", "columns_for"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of pictures: its title, what it shows, and a function that draws it."""

    symbol: str
    """The title, or its main letter."""
    index: str = ""
    """The title's subscript."""
    stage: str = ""
    """"before" or "after", of the refinement."""
    meaning: str
    draw: Callable[[Evidence], tuple[Picture, str] | None]
    """The picture and its caption, or ``None`` where the defense has no such thing."""

    @property
    def title(self) -> str:
        """The title in plain text, for those who do not see the picture."""
        kind = "Score map" if self.symbol == "S" else ""
        return " ".join(filter(None, (kind, self.symbol, self.index, self.stage)))


def _map_column(symbol: str, index: str, stage: str, *, field: str, meaning: str) -> Column:
    def draw(evidence: Evidence) -> tuple[Picture, str] | None:
        scores: Map | None = getattr(evidence, field)
        return None if scores is None else (colourise(scores), f"highest {scores.max():.2f}")

    return Column(symbol=symbol, index=index, stage=stage, meaning=meaning, draw=draw)


def _draw_input(evidence: Evidence) -> tuple[Picture, str]:
    height, width = evidence.size
    return evidence.original, f"{width} × {height} px"


def _draw_hidden(evidence: Evidence) -> tuple[Picture, str] | None:
    if evidence.hidden is None:
        return None
    return mark_hidden(evidence.original, evidence.hidden), f"{evidence.hidden.sum()} of {evidence.hidden.size} tokens"


def _draw_purified(evidence: Evidence) -> tuple[Picture, str]:
    return evidence.purified, "restored" if evidence.largest_change > 0 else "unchanged"


def _draw_removed(evidence: Evidence) -> tuple[Picture, str]:
    return difference(evidence.original, evidence.purified), f"at most {evidence.largest_change:.2f}"


COLUMNS: tuple[Column, ...] = (
    Column(symbol="Input", meaning="The original image.", draw=_draw_input),
    _map_column(
        *("S", "image", "before"),
        field="initial_image_scores",
        meaning="How much each token differs from its restoration by the autoencoder (1 − SSIM).",
    ),
    _map_column(
        *("S", "image", "after"),
        field="image_scores",
        meaning="The same after refinement: higher where hiding connected tokens changed the label.",
    ),
    _map_column(
        *("S", "label", "before"),
        field="initial_label_scores",
        meaning="How often the label changed when the token was hidden.",
    ),
    _map_column(
        *("S", "label", "after"),
        field="label_scores",
        meaning="The same after refinement.",
    ),
    _map_column(*("S", "", ""), field="scores", meaning="Both scores combined. Tokens with a high score are hidden."),
    Column(
        symbol="Hidden",
        meaning="The tokens that were restored or filtered, in amber.",
        draw=_draw_hidden,
    ),
    Column(
        symbol="Purified",
        meaning="The restored image. Its label is the answer, unless another is given.",
        draw=_draw_purified,
    ),
    Column(
        symbol="Removed",
        meaning="How much each pixel changed, times two. Black: unchanged.",
        draw=_draw_removed,
    ),
)
"""All columns in their order, from the input to what was removed from it."""


def columns_for(entries: Sequence[ReportEntry]) -> list[Column]:
    """Return the columns that these entries can fill. Where nothing was refined, each score has one column."""
    evidence = [entry.evidence for entry in entries if entry.evidence is not None]
    shown = [column for column in COLUMNS if any(column.draw(one) is not None for one in evidence)]
    if any(_refined(one) for one in evidence):
        return shown
    first = {column.index: column for column in COLUMNS if column.stage == "before"}
    return [
        dataclasses.replace(first[column.index], stage="", draw=column.draw) if column.stage else column
        for column in shown
        if column.stage != "before"
    ]


def _refined(evidence: Evidence) -> bool:
    pairs = (
        (evidence.initial_image_scores, evidence.image_scores),
        (evidence.initial_label_scores, evidence.label_scores),
    )
    return any(a is not None and b is not None and not np.array_equal(a, b) for a, b in pairs)
