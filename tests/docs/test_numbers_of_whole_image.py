"""The figures of the profile broad on its page are those of the records."""

from __future__ import annotations

from statistics import mean

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from benchmark_records import in_per_cent
from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.record_files import read_records

RECORDS = list(read_records(ROOT / "benchmarks/results/broad.jsonl"))
BROAD = [one for one in RECORDS if one.defense.name == "bdmae-broad"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/method/whole-image.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
]
"""The cells of each row of the page's tables."""


def test_attacks_are_those_of_the_records() -> None:
    found = {}
    for one in BROAD:
        if one.attack is not None:
            assert (one.clean_images, one.triggered_images) == (200, 200)
            mode = one.victim.config["mode"]
            name = one.attack if mode == "all-to-one" else f"{one.attack}, {mode}"
            found[name] = [in_per_cent(one.before), in_per_cent(one.after)]
    shown = {row[0].partition(" (")[0]: row[1:] for row in ROWS if len(row) == 3 and row[1].count("/") == 2}
    placed = {row[0]: [row[1], row[3]] for row in ROWS if len(row) == 4 and row[1].count("/") == 2}
    assert shown | placed == found


def test_the_default_beside_it_is_that_of_the_records() -> None:
    found = {}
    for one in RECORDS:
        if one.attack is not None and one.defense.name == "bdmae":
            mode = one.victim.config["mode"]
            found[one.attack if mode == "all-to-one" else f"{one.attack}, {mode}"] = in_per_cent(one.after)
    assert len(found) == 3
    assert {row[0]: row[2] for row in ROWS if len(row) == 4 and row[1].count("/") == 2} == found


def test_clean_classifiers_are_those_of_the_records() -> None:
    found: dict[str, dict[str, str]] = {}
    for one in RECORDS:
        if one.attack is None:
            assert one.clean_images == 500
            name = f"{one.dataset}, {one.victim.config['architecture']}"
            found.setdefault(name, {})[one.defense.name] = in_per_cent(one.after)
    shown = {row[0]: row[1:] for row in ROWS if len(row) == 4 and "/" not in row[1] and "," in row[0]}
    assert shown == {
        name: [rates[defense] for defense in ("none", "bdmae", "bdmae-broad")] for name, rates in found.items()
    }


def test_queries_are_those_of_the_records() -> None:
    page = (ROOT / "docs/method/whole-image.md").read_text(encoding="utf-8")

    def queries(name: str) -> float:
        return mean(one.cost.queries_mean for one in RECORDS if one.attack is None and one.defense.name == name)

    assert f"{queries('bdmae-broad'):.0f} an image, at most 47" in page
    assert round(queries("bdmae-broad") - queries("bdmae")) == 6
    assert "about six queries more" in page


def test_the_records_are_of_the_profile_as_it_is_and_of_clean_checkouts() -> None:
    expected = PROFILES["default"].in_force(photographs=False).to_dict()
    for one in BROAD:
        assert one.defense.config == {
            name: {key: list(item) if isinstance(item, tuple) else item for key, item in stage.items()}
            if isinstance(stage, dict)
            else stage
            for name, stage in expected.items()
        }
        assert not one.environment.commit.endswith("+dirty")
        assert one.cost.queries_max <= 47
