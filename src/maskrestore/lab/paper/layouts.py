"""Layouts of tables and figures: tables, curves and pictures. Each returns the entries that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskrestore.lab.paper.cells import Case, Entry, Variant

__all__ = ["Column", "Curves", "Experiment", "Line", "Panel", "Pictures", "Point", "Row", "Table"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table. It shows the mean over its cases."""

    title: str
    """Also the key of the paper's numbers in ``published.PAPER``."""
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: a defense. With several variants, the best one is taken for each case."""

    label: str
    variants: tuple[Variant, ...]
    paper: str | None = None
    """The row of the paper's table to compare with."""

    @property
    def ours(self) -> bool:
        """Whether the row is BDMAE, in any profile."""
        return all(variant.defense.startswith("bdmae") for variant in self.variants)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a row per defense."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    unavailable: tuple[str, ...] = ()
    """Columns of the paper's table whose data set is not available here."""
    notes: tuple[str, ...] = ()
    bars: bool = False
    """Whether the table is also drawn as a bar chart."""
    most_images: int | None = None
    """Number of test images of a cell, if the paper does not use all."""

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Return every case with every variant. most_cases: maximum number of cases per column."""
        cases = [case for column in self.columns for case in column.cases[:most_cases]]
        return tuple((case, variant) for case in cases for row in self.rows for variant in row.variants)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line."""

    x: float
    case: Case
    variant: Variant


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a panel."""

    label: str
    points: tuple[Point, ...]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of a figure: CA, BA and ASR as functions of one setting."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    standard: float | None = None
    """The paper's value of the setting, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A figure with several panels."""

    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Return every point of every line. most_cases: maximum number of lines per panel."""
        lines = [line for panel in self.panels for line in panel.lines[:most_cases]]
        return tuple((point.case, point.variant) for line in lines for point in line.points)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A figure of images. It is drawn directly from the victims and has no records."""

    title: str
    kind: Literal["process", "refinement", "scores", "side-by-side"]
    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    images: int
    """Number of images per case."""
    notes: tuple[str, ...] = ()

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Return no entries, because pictures have no records."""
        return ()


Experiment = Table | Curves | Pictures
