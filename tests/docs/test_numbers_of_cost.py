"""Figures of the page on costs are those of the package, computed as ``maskrestore cost`` computes them."""

from __future__ import annotations

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.cli.cost import cost_rows
from maskrestore.defense.profiles import PROFILES
from maskrestore.distributed.cost import Demand, Figure, Workers, figure_of, read_figures

PAGE = (ROOT / "docs/guides/cost.md").read_text(encoding="utf-8")
FIGURES = read_figures()
CORES = [figure for figure in FIGURES if figure.unit == "core"]
WORKERS = 1000
"""Cores of the last column."""


def name(figure: Figure) -> str:
    return f"`{figure.restorer}`, `{figure.profile}`"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measured(figure: Figure) -> str:
    """What one worker does: a line of the first table."""
    demand, gpu = Demand(images=1), figure_of(FIGURES, figure.restorer, figure.profile, "GPU")
    assert figure.result is not None
    return line(
        name(figure),
        f"{demand.images_per_hour(figure):,.0f}",
        "not measured" if gpu is None else f"{demand.images_per_hour(gpu):,.0f}",
        f"{figure.at(demand.triggered).queries:.1f}, {PROFILES[figure.profile].max_queries}",
        f"{figure.result.image:,.0f} + {figure.result.maps:,.0f} + {figure.result.record:,.0f}",
    )


def arithmetic(figure: Figure, images: int) -> str:
    """What a number of images takes: a line of the other tables."""
    demand = Demand(images=images)
    rows = {one: (how, result) for one, how, result in cost_rows(demand, [Workers(figure=figure)])}
    spread = {one: result for one, _, result in cost_rows(demand, [Workers(figure=figure, count=WORKERS)])}
    cells = [" = ".join(rows[one]) for one in ("core-hours", "queries", "storage")]
    return line(name(figure), *cells, spread["hours"])


def origin(figure: Figure) -> str:
    return f"{figure.machine}, {figure.precision}, {figure.created}"


def test_what_one_worker_does() -> None:
    for figure in CORES:
        assert measured(figure) in PAGE
    for figure in FIGURES:
        assert origin(figure) in " ".join(PAGE.split())


@pytest.mark.parametrize("images", [10**6, 10**9])
def test_what_many_pictures_take(images: int) -> None:
    assert len(CORES) == 6
    for figure in CORES:
        assert arithmetic(figure, images) in PAGE
