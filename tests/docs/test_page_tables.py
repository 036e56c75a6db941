"""Tables of pages are those of the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.default_tables import DETECTED, DETECTIONS, attack_of, of_attack
from scripts.docs import ROOT, TABLES
from scripts.tables import filled

from maskrestore.lab.baselines import DETECTORS


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.name)
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, TABLES[page]) == text, f"{page.name} is old: run `python -m scripts.docs`"


def test_a_row_of_the_readme_is_that_of_the_files() -> None:
    """Computed from the lines themselves."""
    lines = (ROOT / "benchmarks/results/default.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        one["defense"]["name"]: " / ".join(
            f"{100 * one['after'][rate]['successes'] / one['after'][rate]['trials']:.1f}"
            for rate in ("ca", "ba", "asr")
        )
        for one in map(json.loads, lines)
        if one["attack"] == "wanet"
    }
    row = " | ".join(found[name] for name in ("none", "bdmae", "bdmae-fast"))
    assert f"| warped image (WaNet) | {row} |" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_table_without_a_place_is_refused() -> None:
    assert filled("<!-- begin a -->\nold\n<!-- end a -->", {"a": lambda: ["new", "lines"]}) == (
        "<!-- begin a -->\nnew\nlines\n<!-- end a -->"
    )
    with pytest.raises(ValueError, match="the table b, found 0"):
        filled("<!-- begin a -->\nold\n<!-- end a -->", {"b": lambda: ["new"]})


@pytest.mark.parametrize("attack", DETECTED)
def test_detectors_met_the_victim_of_the_suspicion(attack: str) -> None:
    others = [one for one in DETECTIONS if attack_of(one) == attack]
    assert {one.detector for one in others} == DETECTORS.keys()
    assert {(one.clean_images, one.triggered_images) for one in others} == {(100, 100)}
    assert {one.victim.weights for one in others} == {of_attack("bdmae", attack).victim.weights}


def test_every_detection_is_in_a_table() -> None:
    assert {attack_of(one) for one in DETECTIONS} == set(DETECTED)
