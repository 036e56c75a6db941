"""Write the files of a table or figure from its records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from maskrestore.lab.paper.cells import Cell, Scale
from maskrestore.lab.paper.layouts import Curves, Experiment, Pictures, Table
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.show.paper_tables import fill_table
from maskrestore.lab.show.pictures import draw_pictures
from maskrestore.lab.show.plots import draw_bars, draw_curves
from maskrestore.runtime.files import write_text_atomically

__all__ = ["write_experiment"]


def write_experiment(
    name: str,
    one: Experiment,
    cells: Sequence[Cell],
    *,
    folder: Path,
    resources: Resources,
    scale: Scale,
    restorer: str,
    report: Callable[[str], None],
) -> list[Path]:
    """Write a table into ``folder/tables`` or a figure into ``folder/figures``. Returns the paths of the files.

    resources, scale, restorer, report: for pictures, see ``draw_pictures``. Raises DataError when a figure has nothing
    to show or a record is invalid, and MissingDependencyError without matplotlib.
    """
    picture = folder / "figures" / f"{name}.png"
    if isinstance(one, Table):
        written = _write_table(name, one, cells, folder)
        return [*written, draw_bars(picture, one, cells, folder)] if one.bars else written
    if isinstance(one, Curves):
        return [draw_curves(picture, one, cells, folder)]
    assert isinstance(one, Pictures)
    return [draw_pictures(picture, one, scale, resources, restorer=restorer, report=report)]


def _write_table(name: str, one: Table, cells: Sequence[Cell], folder: Path) -> list[Path]:
    made = fill_table(name, one, cells, [folder])
    base = folder / "tables" / name
    texts = {".md": made.markdown(), ".csv": made.csv(), ".tex": made.latex()} if made.sheets else {}
    texts = texts or {".md": made.markdown()}
    for suffix, text in texts.items():
        write_text_atomically(base.with_suffix(suffix), text)
    return [base.with_suffix(suffix) for suffix in texts]
