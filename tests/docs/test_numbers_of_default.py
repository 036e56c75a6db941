"""The figures of the default and of fast, in README.md and on two pages, are those of the records.

``tests/docs/test_page_tables.py`` is about the tables that are made from them.
"""

from __future__ import annotations

import json
import re
from statistics import mean, median

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.default_tables import (
    DEFENSES,
    DETECTED,
    PUBLIC,
    README,
    RECORDS,
    attack_of,
    clean_classifiers,
    of_attack,
    rates,
)
from scripts.docs import ROOT

from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record
from maskrestore.runtime.settings import with_settings


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each row of the page's tables after the first, by the first."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: values for name, *values in cells}


MOVED_COPIES = [one for one in read_records(ROOT / "benchmarks/results/moved-copies.jsonl") if one.attack]
"""With the stage and without it, for each victim."""


def test_the_readme_is_short_and_shows_no_other_rates() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^\| .*\d+\.\d / ", text, re.MULTILINE)) == len(README)


def test_what_fast_gives_up_is_that_of_the_records() -> None:
    page = (ROOT / "docs/guides/queries-and-profiles.md").read_text(encoding="utf-8")
    for attack in ("corners", "blended:15x15"):
        default, fast = (100 * of_attack(name, attack).after.ba.value for name in DEFENSES[1:])
        assert f"{fast:.1f} in place of {default:.1f}" in page
    found = clean_classifiers()
    assert len(found) == 3
    signs, others = (
        found[f"{name}, resnet18"]["bdmae-fast"].cost.queries_median_clean for name in ("gtsrb", "cifar10")
    )
    assert f"a median of {signs:.0f} in place of {others:.0f}." in page
    assert signs > others


def test_what_moved_copies_bring_is_that_of_the_records() -> None:
    rows = rows_of("docs/method/default-profile.md")
    default = PROFILES["default"]
    configs = [
        json.loads(json.dumps(config.in_force(photographs=False).to_dict()))
        for config in (with_settings(default, {"moved": None}), default)
    ]
    by_attack: dict[str, list[Record]] = {}
    for one in sorted(MOVED_COPIES, key=lambda one: configs.index(one.defense.config)):
        by_attack.setdefault(attack_of(one), []).append(one)
    found = {name: pair for name, pair in by_attack.items() if name in rows}
    assert len(found) == 11
    for name, (without, with_copies) in found.items():
        assert rows[name] == [rates(without.after), rates(with_copies.after)]
        assert without.victim.weights == with_copies.victim.weights


def test_what_public_classifiers_lose_is_that_of_the_records() -> None:
    page = (ROOT / "docs/method/default-profile.md").read_text("utf-8")
    for architecture in {name for name, _ in PUBLIC}:
        default = PUBLIC[architecture, "bdmae"]
        lost = default.before.ca.value - default.after.ca.value
        assert re.search(rf"{architecture.replace('resnet', 'ResNet-')} loses {100 * lost:.2f}\b", page)
    assert f"{2000 - PUBLIC['resnet56', 'bdmae'].kept} of its 2,000 labels change" in page
    lost = [one.before.ca.value - one.after.ca.value for (_, name), one in PUBLIC.items() if name == "bdmae-fast"]
    assert f"With `fast` each of the three loses at most {100 * max(lost):.2f}." in page


def test_queries_are_those_of_the_records() -> None:
    page = (ROOT / "docs/method/default-profile.md").read_text(encoding="utf-8")
    clean = clean_classifiers().values()
    means = [mean(one[defense].cost.queries_mean for one in clean) for defense in DEFENSES[1:]]
    assert f"`default` asks about {means[0]:.0f} times about a clean image, `fast` {means[1]:.0f} times" in page
    of_all = {
        defense: [one.cost.queries_mean for one in RECORDS if one.defense.name == defense] for defense in DEFENSES
    }
    for name in ("README.md", "docs/threat-model.md", "docs/guides/queries-and-profiles.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.search(rf"bout {mean(of_all['bdmae']):.0f}( queries an image|, at most)", text)
        assert f"{min(of_all['bdmae-fast']):.0f} to {max(of_all['bdmae-fast']):.0f}" in text
    medians = [one["bdmae-fast"].cost.queries_median_clean for one in clean]
    assert f"median {median(medians):.0f}" in page


def test_what_doubt_brings_is_that_of_the_records() -> None:
    words = " ".join((ROOT / "docs/method/suspicion.md").read_text(encoding="utf-8").split())
    found = {attack: of_attack("bdmae", attack).suspicion for attack in DETECTED}
    risks = found["wanet"].risks
    assert f"wrong answers from {100 * risks['1.0']:.1f} to {100 * risks['0.8']:.1f} % (WaNet)" in words
    doubtful = [100 * one.doubtful_clean.value for one in found.values()]
    assert f"few clean images in doubt, {min(doubtful):.1f} to {max(doubtful):.1f} %" in words


def test_the_records_are_of_the_profiles_and_of_clean_checkouts() -> None:
    for name, profile in (("bdmae", "default"), ("bdmae-fast", "fast")):
        expected = json.loads(json.dumps(PROFILES[profile].in_force(photographs=False).to_dict()))
        of_profile = [one for one in [*RECORDS, *PUBLIC.values()] if one.defense.name == name]
        assert len(of_profile) == 16 + len(PUBLIC) / 2
        for one in of_profile:
            assert one.defense.config == expected
            assert not one.environment.commit.endswith("+dirty")
            assert one.cost.queries_max <= 47


def test_the_records_are_of_as_many_images_as_the_pages_say() -> None:
    for one in RECORDS:
        assert (one.clean_images, one.triggered_images) == ((200, 200) if one.attack else (500, 0))
    for one in PUBLIC.values():
        assert (one.clean_images, one.triggered_images) == (2000, 0)
