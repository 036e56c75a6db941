"""``maskrestore cost``: the arithmetic, with figures that are easy to compute with, and the figures of the package."""

import dataclasses
import json

import pytest

from maskrestore.distributed.cost import Demand, Figure, Measured, ResultBytes, Workers, hours_of, read_figures

CORE = Figure(
    restorer="mae-photo-224",
    profile="fast",
    unit="core",
    size=100,
    machine="a processor",
    precision="float32",
    created="2026-01-02",
    source="a test",
    measured=(
        Measured(triggered=0.0, images=5, seconds=1.0, queries=6.0),
        Measured(triggered=1.0, images=5, seconds=3.0, queries=16.0),
    ),
    result=ResultBytes(image=1000.0, maps=300.0, record=200.0),
)
GPU = dataclasses.replace(
    CORE,
    unit="GPU",
    machine="an accelerator",
    measured=(Measured(triggered=0.1, images=10, seconds=0.01, queries=7.0),),
    result=None,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"version": 1, "figures": [dataclasses.asdict(one) for one in (CORE, GPU)]}))
    return path


@pytest.fixture
def cost(invoke, file):
    """Runs the command; returns the cells of each row by the first one."""

    def run(*arguments, images="1e6"):
        done = invoke("cost", "--images", images, "--profile", "fast", "--figures", file, *arguments)
        assert done.exit_code == 0, done.output
        rows = [
            [cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line
        ]
        return {name: cells for name, *cells in rows}

    return run


def test_hours_queries_and_storage_with_their_arithmetic(cost):
    # 90 % of the images take 1 s and 10 % take 3 s.
    assert cost() == {
        "images per core-hour": ["3,600 s / (1.2 s)", "3,000"],
        "core-hours": ["1,000,000 images / 3,000", "333"],
        "images per GPU-hour": ["3,600 s / (0.01 s)", "360,000"],
        "GPU-hours": ["1,000,000 images / 360,000", "2.78"],
        "queries": ["1,000,000 images x 7", "7,000,000"],
        "queries at most": ["1,000,000 images x 47", "47,000,000"],
        "storage": ["1,000,000 images x (1,000 PNG + 300 maps + 200 record) bytes", "1.5 GB"],
    }


def test_workers_share_the_images_each_as_fast_as_it_is(cost):
    rows = cost("--cores", 120, "--gpus", 1, "--price-per-core-hour", 0.05, "--price-per-gpu-hour", 2)
    assert rows["hours"] == ["1,000,000 images / (120 cores x 3,000 + 1 GPU x 360,000 an hour)", "1.39"]
    assert rows["core-hours"] == ["1.39 hours x 120 cores", "167"]
    assert rows["GPU-hours"] == ["1.39 hours x 1 GPU", "1.39"]
    assert rows["price of core-hours"] == ["167 core-hours x 0.05", "8.33"]
    assert rows["price of GPU-hours"] == ["1.39 GPU-hours x 2", "2.78"]
    alone = cost("--gpus", 2)
    assert alone["hours"] == ["1,000,000 images / (2 GPUs x 360,000 an hour)", "1.39"]
    assert "core-hours" not in alone
    assert alone["storage"][1] == "1.5 GB"


def test_what_the_cost_depends_on(cost):
    assert cost("--triggered", 0)["core-hours"][1] == "278"
    assert cost("--triggered", 1)["queries"] == ["1,000,000 images x 16", "16,000,000"]
    slow = cost("--classifier-seconds", 0.1, "--triggered", 0)
    assert slow["images per core-hour"] == ["3,600 s / (1 s + 6 queries x 0.1 s)", "2,250"]
    assert cost("--size", 200)["storage"][0].endswith("x (4,000 PNG + 300 maps + 200 record) bytes")
    assert cost("--price-per-query", 0.001)["price of queries"] == ["7,000,000 queries x 0.001", "7,000.00"]
    assert cost(images="1e9")["storage"][1] == "1.5 TB"


def test_machine_and_date_are_said(invoke, file):
    done = invoke("cost", "--images", "1e9", "--profile", "fast", "--figures", file)
    assert "one core: a processor, float32, 100 x 100 pixels, 2026-01-02, a test\n" in done.stderr
    assert "one GPU: an accelerator" in done.stderr
    assert "with 10% of the images triggered, whatever --triggered says" in done.stderr
    assert "another machine takes another time; measure yours with `python -m benchmarks.cost_figures" in done.stderr


@pytest.mark.parametrize("profile", ["default", "fast", "paper"])
@pytest.mark.parametrize(("restorer", "side"), [("mae-tiny-32", 32), ("mae-photo-224", 224)])
def test_the_package_has_figures_of_its_restorers(invoke, restorer, side, profile):
    for words in (("--restorer", restorer), ("--size", side)):
        done = invoke("cost", "--images", "1e9", "--profile", profile, *words)
        assert done.exit_code == 0, done.output
        assert f"1,000,000,000 images, {restorer}, profile {profile}" in done.stdout
        assert "core-hours" in done.stdout
        measured = any(one.restorer == restorer and one.unit == "GPU" for one in read_figures())
        assert ("GPU: not measured" in done.stderr) != measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nan"], "Invalid value for '--images'"),
        (["--images", "1", "--price-per-core-hour", "nan"], "Invalid value for '--price-per-core-hour'"),
        (["--images", "1", "--price-per-query", "inf"], "expected a finite number, got inf"),
        (
            ["--images", "1", "--profile", "paper"],
            "mae-photo-224 with paper was not measured on a core; measured: mae-",
        ),
        (["--images", "1", "--restorer", "other", "--cores", "1"], "other with default was not measured on a core"),
    ],
)
def test_what_cannot_be_computed_is_said(invoke, file, arguments, message):
    done = invoke("cost", "--figures", file, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"version": 2}', "found version 2, expected 1"),
        ('{"version": 1}', "'figures' is missing"),
        ('{"version": 1, "figures": [{}]}', "'measured' is missing"),
        ('{"version": 1, "figures": [{"measured": []}]}', "missing 8 required"),
        (json.dumps({"version": 1, "figures": [{**dataclasses.asdict(GPU), "unit": "TPU"}]}), "unit must be one of"),
        (json.dumps({"version": 1, "figures": [{**dataclasses.asdict(GPU), "measured": []}]}), "one or two"),
    ],
)
def test_files_that_hold_no_figures_are_refused(invoke, tmp_path, content, reason):
    (tmp_path / "other.json").write_text(content)
    done = invoke("cost", "--images", 1, "--figures", tmp_path / "other.json")
    assert done.exit_code == 2
    assert "other.json does not hold figures of costs (" in done.stderr
    assert reason in done.stderr
    assert "`python -m benchmarks.cost_figures`" in done.stderr


def test_images_are_not_lost_between_workers():
    demand = Demand(images=10**9, classifier_seconds=0.02)
    kinds = [Workers(figure=CORE, count=7), Workers(figure=GPU, count=3)]
    hours = hours_of(demand, kinds)
    done = sum(worked * demand.images_per_hour(kind.figure) for kind, worked in zip(kinds, hours.worked, strict=True))
    assert done == pytest.approx(demand.images)
    assert hours.worked[0] == pytest.approx(hours.elapsed * 7)
