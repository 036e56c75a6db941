import csv
import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from maskrestore.errors import ConfigError, DataError
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Case, Variant
from maskrestore.lab.paper.layouts import Curves, Line, Panel, Pictures, Point
from maskrestore.lab.paper.scales import SCALES, cells_of
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.lab.show.pictures import draw_pictures
from maskrestore.lab.show.plots import COLOURS, _bands, draw_bars, draw_curves
from toy_evaluation import EraseCorner, make_defense
from toy_resources import ToyResources

pytest.importorskip("matplotlib")

SMOKE = SCALES["smoke"]
CASE = Case(dataset="cifar10", attack="corners")


def curves():
    points = tuple(
        Point(x=steps, case=CASE, variant=Variant(defense="bdmae-paper", settings=(("refinement.steps", steps),)))
        for steps in (1, 5, 10)
    )
    lines = (Line(label="before", points=points[:2], dashed=True), Line(label="after", points=points))
    return Curves(title="steps", panels=(Panel(title="(a)", x_label="steps", lines=lines),))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_are_a_picture_and_its_numbers(tmp_path):
    cells = cells_of(curves(), SMOKE)
    run_cells(cells, tmp_path, ToyResources(tmp_path).make())
    whole = dataclasses.replace(SMOKE, most_cases=None)
    picture = draw_curves(tmp_path / "f" / "c.png", curves(), cells_of(curves(), whole), tmp_path)
    width, height = Image.open(picture).size
    assert min(width, height) > 400
    rows = rows_of(picture.with_suffix(".csv"))
    # The smoke scale keeps one line of each panel; two of the other line's points are its own.
    assert [(row["line"], row["x"], row["rate"]) for row in rows[:3]] == [
        ("before", "1", rate) for rate in ("ca", "ba", "asr")
    ]
    assert {row["x"] for row in rows} == {"1", "5"}
    assert {row["mean"] for row in rows if row["rate"] == "asr"} == {"0.0"}


def test_nothing_is_drawn_without_records(tmp_path):
    with pytest.raises(DataError, match="run the cells first"):
        draw_curves(tmp_path / "c.png", curves(), cells_of(curves(), SMOKE), tmp_path)
    with pytest.raises(DataError, match="run the cells first"):
        draw_bars(tmp_path / "b.png", EXPERIMENTS["figA4"], cells_of(EXPERIMENTS["figA4"], SMOKE), tmp_path)


def test_bars_have_a_group_for_each_row(tmp_path):
    cells = cells_of(EXPERIMENTS["figA4"], SMOKE)
    run_cells(cells, tmp_path, ToyResources(tmp_path).make())
    picture = draw_bars(tmp_path / "b.png", EXPERIMENTS["figA4"], cells, tmp_path)
    rows = rows_of(picture.with_suffix(".csv"))
    assert len(rows) == 3 * len(EXPERIMENTS["figA4"].rows)
    assert Image.open(picture).size[1] > 1000


def test_colours_differ_for_everybody():
    # Grey values of neighbours in the list: they differ even where no colour is seen at all.
    values = [
        np.dot([int(colour[place : place + 2], 16) for place in (1, 3, 5)], [0.299, 0.587, 0.114]) for colour in COLOURS
    ]
    assert len(set(COLOURS)) == len(COLOURS)
    assert min(abs(one - other) for one, other in pairwise(values[:4])) > 5


class Scoring(EraseCorner):
    """Erases the corner, and says that it scored."""

    def purify(self, images, classifier):
        result = super().purify(images, classifier)
        scores = result.hidden.float() * images[:, :1, -1, -1, None]
        maps = ("scores", "image_scores", "label_scores", "initial_image_scores", "initial_label_scores")
        return dataclasses.replace(result, **dict.fromkeys(maps, scores))


@pytest.mark.parametrize("kind", ["process", "refinement", "scores", "side-by-side"])
def test_pictures(kind, tmp_path):
    steps = tuple(Variant(defense="bdmae-paper", settings=(("refinement.steps", n),)) for n in (2, 5))
    others = (Variant(defense="blur-weak"), Variant(defense="zip"), Variant(defense="bdmae"))
    pictures = Pictures(
        title="some",
        kind=kind,
        cases=(CASE, Case(dataset="gtsrb", attack="corners")),
        variants=steps if kind == "refinement" else others,
        images=3,
    )

    def defense(cell):
        if cell.variant.defense == "zip":
            raise ConfigError("no model")
        return make_defense(Scoring(), cell.variant.defense)

    lab = dataclasses.replace(ToyResources(tmp_path).make(), defense=defense)
    notes = []
    picture = draw_pictures(tmp_path / "p.png", pictures, SMOKE, lab, report=notes.append)
    assert min(Image.open(picture).size) > 200
    rows = rows_of(picture.with_suffix(".csv"))
    per_defense = 3 * (2 if kind == "scores" else 1) * 2
    assert len(rows) == per_defense * 2
    triggered = [row for row in rows if row["part"] == "triggered"]
    assert all(row["label"] == row["true_label"] and row["original_label"] == "0" for row in triggered)
    assert all(float(row["largest_score"]) == 1.0 for row in triggered)
    if kind == "refinement":
        assert notes == []
    else:
        assert len([note for note in notes if "zip: no model" in note]) == (4 if kind == "scores" else 2)


def test_pictures_need_a_victim(tmp_path):
    notes = []
    lab = ToyResources(tmp_path, trained=False).make()
    with pytest.raises(DataError, match="add --train"):
        draw_pictures(tmp_path / "p.png", EXPERIMENTS["fig3"], SMOKE, lab, report=notes.append)
    assert all("not trained" in note for note in notes)


def test_more_than_four_panels_make_several_rows():
    panels = curves().panels * 6
    assert [len(_bands(panels[:count])) for count in (1, 4, 5, 6)] == [1, 1, 2, 2]
    assert [len(band) for band in _bands(panels[:5])] == [3, 2]
    assert [panel for band in _bands(panels) for panel in band] == list(panels)


def test_many_panels_stay_as_wide_as_a_page(tmp_path):
    one = curves().panels[0]
    panels = tuple(dataclasses.replace(one, title=f"({number})", standard=5.0) for number in range(5))
    many = dataclasses.replace(curves(), panels=panels)
    cells = cells_of(many, SMOKE)
    run_cells(cells, tmp_path, ToyResources(tmp_path).make())
    width, height = Image.open(draw_curves(tmp_path / "c.png", many, cells, tmp_path)).size
    assert width < 1650 < height


def test_the_papers_setting_is_marked_where_it_is_one():
    panels = {panel.title: panel for name in ("fig5", "figA1", "settings") for panel in EXPERIMENTS[name].panels}
    standards = {title: panel.standard for title, panel in panels.items()}
    assert standards.pop("(d) one fixed threshold") is None
    for title, standard in standards.items():
        assert standard in {point.x for line in panels[title].lines for point in line.points}, title
