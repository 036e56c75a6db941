"""Writes the tables of ``docs/guides/cost.md`` from the figures of the package.

python -m scripts.cost_tables
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maskrestore.cli.cost import cost_rows
from maskrestore.defense.profiles import PROFILES
from maskrestore.distributed.cost import Demand, Figure, Workers, figure_of, read_figures

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parents[1] / "docs/guides/cost.md"
FIGURES = read_figures()
CORES = [figure for figure in FIGURES if figure.unit == "core"]
WORKERS = 1000
"""Cores of the last column."""


def render(text: str) -> str:
    """The text of the page with its tables made anew, each between two comments."""
    for name, lines in TABLES.items():
        content = "\n".join(lines())
        pattern = rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)"
        text = re.sub(pattern, lambda found, content=content: found[1] + content + found[2], text, flags=re.DOTALL)
    return text


def one_worker() -> Iterator[str]:
    """What one worker does."""
    yield from _head("", "images per core-hour", "images per GPU-hour", "queries: mean, at most", "bytes of a result")
    demand = Demand(images=1)
    for figure in CORES:
        gpu = figure_of(FIGURES, figure.restorer, figure.profile, "GPU")
        assert figure.result is not None
        yield _line(
            _name(figure),
            f"{demand.images_per_hour(figure):,.0f}",
            "not measured" if gpu is None else f"{demand.images_per_hour(gpu):,.0f}",
            f"{figure.at(demand.triggered).queries:.1f}, {PROFILES[figure.profile].max_queries}",
            f"PNG {figure.result.image:,.0f}, maps {figure.result.maps:,.0f}, record {figure.result.record:,.0f}",
        )


def many_images(images: int) -> Iterator[str]:
    """What a number of images takes, with the arithmetic."""
    yield from _head("", "core-hours", "queries", "storage", f"hours on {WORKERS:,} cores")
    demand = Demand(images=images)
    for figure in CORES:
        rows = {name: (how, result) for name, how, result in cost_rows(demand, [Workers(figure=figure)])}
        spread = {name: result for name, _, result in cost_rows(demand, [Workers(figure=figure, count=WORKERS)])}
        cells = (" = ".join(rows[name]) for name in ("core-hours", "queries", "storage"))
        yield _line(_name(figure), *cells, spread["hours"])


def origins() -> Iterator[str]:
    """Where the figures come from."""
    yield from _head("one", "machine", "computes in", "measured", "by")
    rows = ((one.unit, one.machine, one.precision, one.created, one.source) for one in FIGURES)
    yield from (_line(*row) for row in dict.fromkeys(rows))


def _head(*names: str) -> Sequence[str]:
    return _line(*names), "|---" * len(names) + "|"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _name(figure: Figure) -> str:
    return f"`{figure.restorer}`, `{figure.profile}`"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "one-worker": one_worker,
    "million": lambda: many_images(10**6),
    "billion": lambda: many_images(10**9),
    "origins": origins,
}


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
