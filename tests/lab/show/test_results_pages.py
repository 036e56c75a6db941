import functools
from pathlib import Path

import pytest

from maskrestore.errors import DataError
from maskrestore.lab.paper.cells import Case, Variant
from maskrestore.lab.paper.layouts import Column, Curves, Line, Panel, Point, Row, Table
from maskrestore.lab.paper.scales import SCALES, cells_of
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.lab.show import results_pages
from maskrestore.lab.show.results_pages import write_pages
from toy_resources import ToyResources

ROOT = Path(__file__).parents[3]
ATTACKED = Case(dataset="cifar10", attack="corners")
SMOKE = SCALES["smoke"]


def line(label, *places):
    return Line(label=label, points=tuple(Point(x=x, case=ATTACKED, variant=Variant(defense="none")) for x in places))


PANEL = Panel(title="(a)", x_label="x", lines=(line("whole", 1, 2), line("half", 1, 2), line("none", 1)))
EXPERIMENTS = {
    "small": Table(
        title="Small & short",
        columns=(Column(title="CIFAR-10", cases=(ATTACKED,)),),
        rows=tuple(Row(label=name, variants=(Variant(defense=name),)) for name in ("none", "bdmae")),
    ),
    "elsewhere": Table(title="Not here", columns=(), rows=(), unavailable=("VGGFace2",)),
    "fig": Curves(title="Curves", panels=(PANEL,), notes=("Note.",)),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The results of a reproduction without figures."""
    monkeypatch.setattr(results_pages, "EXPERIMENTS", EXPERIMENTS)
    run_cells(cells_of(EXPERIMENTS["small"], SMOKE), tmp_path / "o", ToyResources(tmp_path).make())
    return tmp_path / "o"


def write(pages, folder):
    count = write_pages(pages, [folder], functools.partial(cells_of, scale=SMOKE), None)
    return count, {path.name for path in pages.glob("*.md")}


def test_a_page_for_each_table_and_an_overview(folder, tmp_path):
    pages = tmp_path / "pages"
    assert write(pages, folder) == (2, {"index.md", "leaderboard.md", "small.md"})
    index = (pages / "index.md").read_text()
    assert "| [Small & short](small.md) | 100.0 (bdmae) | 50.0 (none) |" in index
    assert "Not measured: Not here; Curves." in index
    assert "| bdmae | 100.0 | **100.0** |" in (pages / "leaderboard.md").read_text()
    text = (pages / "small.md").read_text()
    for words in ("<!-- Made by", "# Small & short", "## CIFAR-10", "## Cost"):
        assert words in text


def test_a_page_says_how_much_a_figure_shows_and_what_it_lacks(folder, tmp_path):
    pages, figures = tmp_path / "pages", folder / "figures"
    figures.mkdir()
    (figures / "fig.png").touch()
    (figures / "fig.csv").write_text("panel,line,x,images\n(a),whole,1,200\n(a),whole,2,200\n(a),half,2.0,150\n")
    assert "fig.md" in write(pages, folder)[1]
    assert (pages / "fig.md").read_text().split("\n\n")[1:] == [
        "# Curves",
        "Note.",
        "150 to 200 test images per point, clean and triggered, over all repeats; bands are 95 % intervals.",
        "Not measured: (a): half in part; (a): none.",
        "![Curves](figures/fig.png)",
        "[The numbers as CSV](figures/fig.csv)\n",
    ]
    # A figure that is beside the pages stays without the folder's.
    (figures / "fig.png").unlink()
    before = (pages / "fig.md").read_text()
    assert "fig.md" in write(pages, folder)[1]
    assert (pages / "fig.md").read_text() == before
    (pages / "figures/fig.csv").write_text("panel,line,x\n(a),whole,1\n")  # of an older version
    with pytest.raises(DataError, match=r"fig.csv cannot be read as the numbers of its figure .*images.*reproduce fig"):
        write(pages, folder)


def test_pages_that_are_not_made_any_more_are_deleted(folder, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "fig.md").touch()
    (pages / "of-somebody-else.md").touch()
    assert write(pages, folder)[1] == {"index.md", "leaderboard.md", "small.md", "of-somebody-else.md"}


def test_the_pages_of_the_repository_are_what_its_records_give(tmp_path):
    committed, pages = ROOT / "docs/research/results", tmp_path / "pages"
    results_pages.copy_figures(pages / "figures", [committed])
    count = write_pages(
        pages, [ROOT / "benchmarks/results/local"], functools.partial(cells_of, scale=SCALES["local"]), None
    )
    assert count == 1036
    assert {path.name for path in pages.glob("*.md")} == {path.name for path in committed.glob("*.md")}
    for page in sorted(pages.glob("*.md")):
        assert page.read_text() == (committed / page.name).read_text(), (
            f"{page.name} is out of date: run `maskrestore reproduce results --out benchmarks/results/local "
            "--pages docs/research/results`"
        )
