"""The tables of ``docs/guides/cost.md``, from the figures of the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scripts.tables import Tables, head, line

from maskrestore.cli.cost import cost_rows
from maskrestore.defense.profiles import PROFILES
from maskrestore.distributed.cost import Demand, Figure, Workers, figure_of, read_figures

__all__ = ["PAGE", "TABLES"]

PAGE = Path(__file__).parents[1] / "docs/guides/cost.md"
FIGURES = read_figures()
CORES = [figure for figure in FIGURES if figure.unit == "core"]
WORKERS = 1000
"""Cores of the last column."""


def one_worker() -> Iterator[str]:
    """What one worker does."""
    yield from head("", "images per core-hour", "images per GPU-hour", "queries: mean, at most", "bytes of a result")
    demand = Demand(images=1)
    for figure in CORES:
        gpu = figure_of(FIGURES, figure.restorer, figure.profile, "GPU")
        assert figure.result is not None
        yield line(
            _name(figure),
            f"{demand.images_per_hour(figure):,.0f}",
            "not measured" if gpu is None else f"{demand.images_per_hour(gpu):,.0f}",
            f"{figure.at(demand.triggered).queries:.1f}, {PROFILES[figure.profile].max_queries}",
            f"PNG {figure.result.image:,.0f}, maps {figure.result.maps:,.0f}, record {figure.result.record:,.0f}",
        )


def many_images(images: int) -> Iterator[str]:
    """What a number of images takes, with the arithmetic."""
    yield from head("", "core-hours", "queries", "storage", f"hours on {WORKERS:,} cores")
    demand = Demand(images=images)
    for figure in CORES:
        rows = {name: (how, result) for name, how, result in cost_rows(demand, [Workers(figure=figure)])}
        spread = {name: result for name, _, result in cost_rows(demand, [Workers(figure=figure, count=WORKERS)])}
        cells = (" = ".join(rows[name]) for name in ("core-hours", "queries", "storage"))
        yield line(_name(figure), *cells, spread["hours"])


def origins() -> Iterator[str]:
    """Where the figures come from."""
    yield from head("one", "machine", "computes in", "measured", "by")
    rows = ((one.unit, one.machine, one.precision, one.created, one.source) for one in FIGURES)
    yield from (line(*row) for row in dict.fromkeys(rows))


def _name(figure: Figure) -> str:
    return f"`{figure.restorer}`, `{figure.profile}`"


TABLES: Tables = {
    "one-worker": one_worker,
    "million": lambda: many_images(10**6),
    "billion": lambda: many_images(10**9),
    "origins": origins,
}
