"""The figures of the profile broad on its page are those of the records."""

from __future__ import annotations

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.record_files import read_records

RECORDS = list(read_records(ROOT / "benchmarks/results/broad.jsonl"))
PAGE = (ROOT / "docs/method/broad-profile.md").read_text(encoding="utf-8")


def in_per_cent(rates: Metrics) -> str:
    values = [rate.value for rate in (rates.ca, rates.ba, rates.asr) if rate is not None]
    return " / ".join(f"{100 * value:.1f}" for value in values)


@pytest.mark.parametrize("name", sorted({one.defense.name for one in RECORDS} - {"none"}))
def test_each_record_has_its_figures_on_the_page(name: str) -> None:
    for one in RECORDS:
        assert not one.environment.commit.endswith("+dirty")
        if one.defense.name == name:
            assert f"{in_per_cent(one.before)} | " in PAGE
            assert f" {in_per_cent(one.after)} |" in PAGE


def test_the_records_are_of_the_profile_as_it_is() -> None:
    broad = [one for one in RECORDS if one.defense.name == "bdmae-broad"]
    expected = PROFILES["broad"].to_dict()
    del expected["photographs"]  # not in force on small images
    for one in broad:
        assert one.defense.config == expected
    attacked = [one for one in broad if one.attack is not None]
    assert {one.attack for one in attacked} >= {"blended:full", "sig", "low-frequency", "wanet", "bpp"}
