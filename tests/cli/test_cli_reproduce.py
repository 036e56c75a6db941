from pathlib import Path

import pytest

from maskrestore.evaluation.grids import GRIDS


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluation"))
    from toy_laboratory import ToyLaboratory

    toy = ToyLaboratory(tmp_path / "toy")
    monkeypatch.setattr(
        "maskrestore.cli.reproduce.make_laboratory",
        lambda *, train, **options: toy.make(train=train is not None),
    )
    monkeypatch.chdir(tmp_path)
    return toy


def test_a_table_is_measured_and_written(invoke, toy, tmp_path):
    result = invoke("reproduce", "table2", "--scale", "smoke")
    assert result.exit_code == 0, result.output
    assert "34 measured of 34 cells" in result.stderr
    folder = tmp_path / "runs/reproduce/smoke"
    assert len(list((folder / "cells").iterdir())) == 34
    assert {path.name for path in (folder / "tables").iterdir()} == {"table2.md", "table2.csv", "table2.tex"}
    assert "34 kept of 34 cells" in invoke("reproduce", "table2", "--scale", "smoke").stderr


def test_the_plan_measures_nothing(invoke, toy, tmp_path):
    result = invoke("reproduce", "table2", "tableA5", "--plan", "--out", "o")
    assert result.exit_code == 0, result.output
    for words in ("table2", "204", "tableA5", "together", "hours left"):
        assert words in result.stdout
    assert not (tmp_path / "o").exists()


def test_what_is_missing_or_failed_is_said_and_sets_the_status(invoke, toy, tmp_path):
    toy.trained = False
    result = invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o")
    assert result.exit_code == 1
    assert "15 missing of 15 cells" in result.stderr
    assert "add --train): cifar10 badnets:2x2-color" in result.stderr
    toy.broken = frozenset({"jpeg"})
    result = invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o", "--train")
    assert result.exit_code == 1
    assert "jpeg has no weights" in result.stderr
    assert (tmp_path / "o/figures/figA4.png").exists()
    toy.broken = frozenset()
    assert invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o", "--train", "--retry").exit_code == 0


def test_tables_without_data_are_listed_not_faked(invoke, toy, tmp_path):
    assert invoke("reproduce", "tableA6", "--out", "o").exit_code == 0
    text = (tmp_path / "o/tables/tableA6.md").read_text()
    assert "Not here for want of the data: ImageNet10." in text
    assert "|" not in text


def test_the_page_of_results(invoke, toy, tmp_path):
    result = invoke("reproduce", "figA4", "results", "--scale", "smoke", "--out", "o", "--page", "docs/results.md")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "docs/results.md").read_text()
    for words in ("# Results", "## Leaderboard", "## Figure A.4", "## How to add yours"):
        assert words in text
    assert invoke("reproduce", "results", "--out", "nothing").exit_code == 1


@pytest.mark.parametrize("name", ["table9", "figure3"])
def test_unknown_names_are_one_clear_line(invoke, toy, name):
    result = invoke("reproduce", name)
    assert result.exit_code == 2
    assert f"unknown table or figure '{name}'" in result.stderr


def test_help_lists_every_name(invoke):
    text = invoke("reproduce", "--help").stdout
    for name in GRIDS:
        assert name in text
    assert "maskrestore reproduce table2 --plan" in text
