"""Figures of the page on costs are those of the package."""

from __future__ import annotations

import json

import pytest
from scripts.cost_tables import PAGE, TABLES
from scripts.tables import filled

from maskrestore.distributed.cost import read_figures

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_figures() -> None:
    assert filled(TEXT, TABLES) == TEXT, "docs/guides/cost.md is old: run `python -m scripts.docs`"
    assert len(read_figures()) == 9  # two restorers and three profiles on a core, one of them on a GPU


@pytest.mark.parametrize("images", [10**6, 10**9])
def test_the_arithmetic_is_right(images: int) -> None:
    """Computed from the file itself: nine clean pictures for each one with a trigger."""
    content = json.loads((PAGE.parents[2] / "src/maskrestore/assets/cost-figures.json").read_text())
    for figure in content["figures"]:
        if figure["unit"] == "core":
            clean, triggered = figure["measured"]
            assert (clean["triggered"], triggered["triggered"]) == (0.0, 1.0)
            seconds = 0.9 * clean["seconds"] + 0.1 * triggered["seconds"]
            queries = 0.9 * clean["queries"] + 0.1 * triggered["queries"]
            hours = images * seconds / 3600
            shown = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
            assert f"| {images:,} images / {3600 / seconds:,.0f} = {shown} |" in TEXT
            assert f"| {images:,} images x {queries:.5g} = {images * queries:,.0f} |" in TEXT
            total = images * sum(figure["result"].values())
            assert f"bytes = {total / 10**9:.3g} GB |" in TEXT or f"bytes = {total / 10**12:.3g} TB |" in TEXT


def test_a_core_without_amx() -> None:
    records = PAGE.parents[2] / "benchmarks/results/speed"
    rates = []
    for name in ("cluster-amx.json", "cluster-avx512.json"):
        (run,) = (
            one
            for one in json.loads((records / name).read_text())["runs"]
            if (one["way"], one.get("threads")) == ("library", 1)
        )
        rates.append(run["steady_images_per_second"])
    assert f"a core with AMX did {rates[0] / rates[1]:.1f} times as many images as one without" in " ".join(
        TEXT.split()
    )
