"""Layouts of an experiment: a table, curves, bars, or pictures. Each knows the entries that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskrestore.lab.paper.cells import Case, Entry, Variant

__all__ = ["Column", "Curves", "Experiment", "Line", "Panel", "Pictures", "Point", "Row", "Table"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; the rates of its cases are averaged."""

    title: str
    """Also the key of the paper's numbers in ``published.PAPER``."""
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: a defense, or several settings of one of which the best is taken for each case."""

    label: str
    variants: tuple[Variant, ...]
    paper: str | None = None
    """The row of the paper's table that it is compared with."""

    @property
    def ours(self) -> bool:
        """Whether it is this project's method, in any profile."""
        return all(variant.defense.startswith("bdmae") for variant in self.variants)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of defenses, columns of cases. With ``bars`` it is drawn as well."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    unavailable: tuple[str, ...] = ()
    """Columns of the paper's table for which there is no data set here."""
    notes: tuple[str, ...] = ()
    bars: bool = False
    most_images: int | None = None
    """Test images of a cell where the paper takes fewer than all."""

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Every case with every variant; most_cases: how many cases of each column are kept."""
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
    """A column of a figure: CA, BA and ASR over one setting."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    standard: float | None = None
    """The paper's own setting, if it is one of the values."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A figure of panels side by side."""

    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Every point of every line; most_cases: how many lines of each panel are kept."""
        lines = [line for panel in self.panels for line in panel.lines[:most_cases]]
        return tuple((point.case, point.variant) for line in lines for point in line.points)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A figure of images. It is drawn with the victims at hand and has no records."""

    title: str
    kind: Literal["process", "refinement", "scores", "side-by-side"]
    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    images: int
    """Of each case."""
    notes: tuple[str, ...] = ()

    def entries(self, most_cases: int | None = None) -> tuple[Entry, ...]:
        """Nothing is recorded for pictures."""
        return ()


Experiment = Table | Curves | Pictures
