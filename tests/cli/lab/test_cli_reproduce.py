import dataclasses
import functools
import re

import pytest

from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.lab.measure.record_files import cell_records, read_records
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.runner.run_cells import run_cells_in_processes


@pytest.fixture
def toy(tmp_path, monkeypatch):
    from toy_resources import ToyResources

    toy = ToyResources(tmp_path / "toy")
    monkeypatch.setattr("maskrestore.cli.lab.reproduce.make_resources", toy.make)
    monkeypatch.chdir(tmp_path)
    return toy


def test_a_table_is_measured_and_written(invoke, toy, tmp_path):
    result = invoke("reproduce", "table2", "--scale", "smoke")
    assert result.exit_code == 0, result.output
    assert "88 measured of 88 cells" in result.stderr
    folder = tmp_path / "runs/reproduce/smoke"
    assert len(read_records(folder)) == 88
    assert {path.name for path in (folder / "tables").iterdir()} == {"table2.md", "table2.csv", "table2.tex"}
    assert "88 kept of 88 cells" in invoke("reproduce", "table2", "--scale", "smoke").stderr


def test_the_cells_of_some_defenses_only(invoke, toy, tmp_path):
    arguments = ("reproduce", "table2", "--scale", "smoke", "--out", "o", "--only", "blur-weak", "--only", "bdmae")
    assert "12 measured of 12 cells" in invoke(*arguments).stderr
    assert {record.defense.name for record in read_records(tmp_path / "o")} == {"blur-weak", "bdmae"}
    assert "| Blur (Weak) |" in (tmp_path / "o/tables/table2.md").read_text()
    result = invoke(*arguments, "--only", "bdmea")
    assert result.exit_code == 2
    assert "unknown defense of these tables 'bdmea'" in result.stderr


def test_some_cases_only(invoke, toy, tmp_path):
    arguments = ("reproduce", "table2", "tableA4", "--scale", "smoke", "--out", "o", "--only", "none")
    assert "2 measured of 2 cells" in invoke(*arguments, "--case", "gtsrb badnets:3x3").stderr
    names = [record.name for record in read_records(tmp_path / "o")]
    assert [name.split("_resnet")[0] for name in names] == ["gtsrb_badnets-3x3-color", "gtsrb_badnets-3x3-white"]
    assert "of 4 cells" in invoke(*arguments, "--case", "3x3", "--case", "gtsrb badnets:1x1").stderr
    assert len(read_records(tmp_path / "o")) == 4
    result = invoke(*arguments, "--case", "gtrsb")
    assert result.exit_code == 2
    assert "unknown case of these tables 'gtrsb'" in result.stderr


def test_records_of_another_revision_are_kept_and_named(invoke, toy, tmp_path):
    arguments = ("reproduce", "table2", "--scale", "smoke", "--out", "o", "--only", "none")
    assert "other revisions" not in invoke(*arguments).stderr
    assert "other revisions" not in invoke(*arguments).stderr
    record = read_records(tmp_path / "o")[0]
    earlier = dataclasses.replace(record.environment, commit="0123abc")
    cell_records(tmp_path / "o").append(dataclasses.replace(record, environment=earlier))
    result = invoke(*arguments)
    assert "4 kept of 4 cells" in result.stderr
    assert "0123abc (1)" in result.stderr


def test_a_figure_that_cannot_be_drawn_does_not_stop_the_tables(invoke, toy, tmp_path, monkeypatch):
    def draw_bars(*_):
        raise MissingDependencyError("matplotlib", "lab")

    monkeypatch.setattr("maskrestore.lab.show.experiments.draw_bars", draw_bars)
    result = invoke("reproduce", "figA4", "table2", "--scale", "smoke", "--out", "o", "--only", "none")
    assert result.exit_code == 1
    assert "figA4: matplotlib is needed" in result.stderr
    assert (tmp_path / "o/tables/table2.md").exists()


def test_the_plan_measures_nothing(invoke, toy, tmp_path):
    result = invoke("reproduce", "table2", "tableA5", "--plan", "--out", "o")
    assert result.exit_code == 0, result.output
    for words in ("table2", "525", "tableA5", "together", "hours left"):
        assert words in result.stdout
    assert not (tmp_path / "o").exists()


def test_processes_share_the_work(invoke, toy, tmp_path, monkeypatch):
    fork = functools.partial(run_cells_in_processes, start_method="fork")  # quicker to start than "spawn"
    monkeypatch.setattr("maskrestore.cli.lab.reproduce_run.run_cells_in_processes", fork)
    toy.trained = False
    toy.deadly = frozenset({"jpeg"})
    result = invoke("reproduce", "figA4", "fig3", "--scale", "smoke", "--out", "o", "--train", "--jobs", "2")
    assert result.exit_code == 1
    assert "the process ended by SIGKILL" in result.stderr
    assert "15 measured, 1 failed of 16 cells" in result.stderr or "1 failed, 15 measured of 16 cells" in result.stderr
    assert (tmp_path / "o/figures/figA4.png").exists()
    # The victims of pictures are trained with the others, each once; at this scale they start from scratch.
    assert len(toy.trainings) == len(set(toy.trainings)) == 2
    assert (tmp_path / "o/figures/fig3.png").exists()


def test_the_plan_names_victims_and_uses_what_was_measured(invoke, toy, tmp_path):
    assert invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o").exit_code == 0
    assert "rough estimates" not in invoke("reproduce", "figA4", "--plan", "--out", "o").stderr
    toy.trained = False
    text = invoke("reproduce", "table3", "--plan", "--out", "o", "--jobs", "4").stderr
    assert "hours: for 4 processes" in text
    assert "rough estimates, because there are no records from this machine: februus-xgradcam" in text
    assert "cifar10 resnet18 clean; cifar10 resnet18 input-aware; gtsrb resnet18 clean" in text


def test_what_is_missing_or_failed_is_said_and_sets_the_status(invoke, toy, tmp_path):
    toy.trained = False
    result = invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o")
    assert result.exit_code == 1
    assert "16 missing of 16 cells" in result.stderr
    assert "add --train): cifar10 badnets:2x2-color" in result.stderr
    toy.broken = frozenset({"jpeg"})
    result = invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o", "--train")
    assert result.exit_code == 1
    assert "jpeg has no weights" in result.stderr
    assert (tmp_path / "o/figures/figA4.png").exists()
    toy.broken = frozenset()
    assert invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o", "--train", "--retry").exit_code == 0


def test_a_victim_of_pictures_that_cannot_be_trained_is_said_and_sets_the_status(invoke, toy, monkeypatch):
    def diverges(config, report):
        raise ConfigError("training diverged")

    toy.trained = False
    monkeypatch.setattr(toy, "_train", diverges)
    result = invoke("reproduce", "fig3", "--scale", "smoke", "--out", "o", "--train")
    assert result.exit_code == 1
    assert "failed: training cifar10" in result.stderr
    assert "training diverged" in result.stderr
    assert "victims that no cell needs could not be trained" in result.stderr


def test_the_plan_does_not_count_on_more_processors_than_there_are(invoke, toy, monkeypatch):
    monkeypatch.setattr("maskrestore.lab.runner.pool.available_cores", lambda: 4)
    monkeypatch.setattr("maskrestore.cli.lab.reproduce_workers.available_cores", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)

    def hours(jobs):
        last = invoke("reproduce", "table2", "--plan", "--out", "o", "--jobs", jobs).stdout.split("together")[1]
        return float(last.strip(" │\n└─┘┴").split()[-1])

    # One process with four threads, or forty that take turns; of three, each with one, a processor idles.
    alone = hours(1)
    assert alone == hours(40) > 0
    assert hours(3) == pytest.approx(alone * 4 / 3, abs=0.05 + 0.05 * 4 / 3)  # both are rounded to 0.1


def test_the_plan_passes_over_records_of_other_weights(invoke, toy, tmp_path):
    assert invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o").exit_code == 0
    record = read_records(tmp_path / "o")[0]
    defense = dataclasses.replace(record.defense, restorer_weights="of another restorer")
    cell_records(tmp_path / "o").append(dataclasses.replace(record, defense=defense))
    plan = invoke("reproduce", "figA4", "--scale", "smoke", "--out", "o", "--plan").stdout
    cells, recorded, failed = re.findall(r"\d+", plan.partition("figA4")[2])[:3]
    assert (cells, recorded, failed) == ("16", "15", "0")


def test_tables_without_data_say_so(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--scale", "smoke", "--only", "none", "--train", "--data", tmp_path, "--cache", tmp_path, "--out", "o")
    result = invoke("reproduce", "tableA7", *options)
    assert result.exit_code == 1
    assert "training imagenet50" in result.output
    assert "imagenet; expected files in the layout of the hub there, or class folders in train/" in result.output
    text = (tmp_path / "o/tables/tableA7.md").read_text()
    assert "No records yet" in text
    assert "|" not in text


def test_the_pages_of_results(invoke, toy, tmp_path):
    result = invoke("reproduce", "figA4", "results", "--scale", "smoke", "--out", "o", "--pages", "docs/results")
    assert result.exit_code == 0, result.output
    pages = tmp_path / "docs/results"
    names = {path.name for path in pages.iterdir()}  # a table and the figure share cells
    assert names == {"index.md", "leaderboard.md", "tableA3.md", "figA4.md", "figures"}
    (link,) = re.findall(r"!\[.*\]\((.*)\)", (pages / "figA4.md").read_text())
    assert (pages / link).read_bytes() == (tmp_path / "o/figures/figA4.png").read_bytes()
    assert invoke("reproduce", "results", "--out", "nothing").exit_code == 1


def test_the_pages_of_results_of_several_folders(invoke, toy, tmp_path):
    for name, folder in (("figA4", "o"), ("tableA2", "p")):
        assert invoke("reproduce", name, "--scale", "smoke", "--out", folder).exit_code == 0
    command = ("reproduce", "results", "--scale", "smoke", "--out", "o")
    assert "wrote the pages in o/pages from 16 records" in invoke(*command).stdout
    pages = tmp_path / "o/pages"
    assert not (pages / "tableA2.md").exists()
    assert "from 24 records" in invoke(*command, "--records", "p", "--records", "o").stdout
    assert "## GTSRB" in (pages / "tableA2.md").read_text()
    assert "| JPEG |" in (pages / "figA4.md").read_text()


@pytest.mark.parametrize("name", ["table9", "figure3"])
def test_unknown_names_are_one_clear_line(invoke, toy, name):
    result = invoke("reproduce", name)
    assert result.exit_code == 2
    assert f"unknown table or figure '{name}'" in result.stderr


def test_help_lists_every_name(invoke):
    text = invoke("reproduce", "--help").stdout
    for name in EXPERIMENTS:
        assert name in text
    assert "maskrestore reproduce table2 --plan" in text
