"""The figures of the default and of fast, in README.md and on two pages, are those of the records."""

from __future__ import annotations

import json
import re
from statistics import mean, median

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from benchmark_records import in_per_cent
from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record
from maskrestore.runtime.settings import with_settings

RECORDS = list(read_records(ROOT / "benchmarks/results/default.jsonl"))
PUBLIC = list(read_records(ROOT / "benchmarks/results/public.jsonl"))
DEFENSES = ("none", "bdmae", "bdmae-fast")
"""In the order of the columns."""
README = {
    "patch of 3 x 3 pixels": ["badnets:3x3-color"],
    "four corners": ["corners"],
    "faint patch over 22 % of the image": ["blended:15x15"],
    "a target for each class (all-to-all)": ["badnets:3x3-color, all-to-all"],
    "noise over the whole image": ["blended:full"],
    "stripes over the whole image (SIG)": ["sig"],
    "warped image (WaNet)": ["wanet"],
    "smooth field over the whole image": ["low-frequency"],
    "adaptive: repeated everywhere": ["repeated"],
    "adaptive: a large faint tint": ["low-contrast"],
}
"""What each row of the README stands for: attacks that it is the mean of."""
WHOLE_IMAGE = (
    "blended:full",
    "sig",
    "low-frequency",
    "wanet",
    "repeated",
    "bpp",
    "low-contrast",
    "adap-blend",
    "refool",
)


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each row of the page's tables after the first, by the first."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: values for name, *values in cells}


def attack_of(record: Record) -> str:
    mode = record.victim.config["mode"]
    return f"{record.attack}" if mode == "all-to-one" else f"{record.attack}, {mode}"


MOVED_COPIES = [one for one in read_records(ROOT / "benchmarks/results/moved-copies.jsonl") if one.attack]
"""With the stage and without it, for each victim."""


def of_attack(defense: str, attack: str) -> Record:
    (found,) = (one for one in RECORDS if one.attack and one.defense.name == defense and attack_of(one) == attack)
    assert (found.clean_images, found.triggered_images) == (200, 200)
    return found


def shown(records: list[Record]) -> str:
    rates = [mean(getattr(one.after, rate).value for one in records) for rate in ("ca", "ba", "asr")]
    return " / ".join(f"{100 * rate:.1f}" for rate in rates)


@pytest.mark.parametrize("name", README)
def test_a_row_of_the_readme_is_that_of_the_records(name: str) -> None:
    found = [shown([of_attack(defense, attack) for attack in README[name]]) for defense in DEFENSES]
    assert rows_of("README.md")[name] == found


@pytest.mark.parametrize("name", README)
def test_a_row_of_the_threat_model_is_that_of_the_records(name: str) -> None:
    found = [of_attack("bdmae", attack) for attack in README[name]]
    rates = [mean(getattr(one, when).asr.value for one in found) for when in ("before", "after")]
    assert rows_of("docs/threat-model.md")[name] == [" → ".join(f"{100 * rate:.1f}" for rate in rates) + " %"]


def test_the_readme_is_short_and_shows_no_other_rates() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^\| .*\d+\.\d / ", text, re.MULTILINE)) == len(README)


def test_triggers_over_the_whole_image_are_those_of_the_records() -> None:
    rows = rows_of("docs/method/whole-image.md")
    named = {name.partition(" (")[0]: values for name, values in rows.items() if "/" in "".join(values[:1])}
    assert named == {attack: [shown([of_attack(one, attack)]) for one in DEFENSES] for attack in WHOLE_IMAGE}


def test_what_fast_gives_up_is_that_of_the_records() -> None:
    page = (ROOT / "docs/guides/queries-and-profiles.md").read_text(encoding="utf-8")
    for attack in ("corners", "blended:15x15"):
        default, fast = (100 * of_attack(name, attack).after.ba.value for name in DEFENSES[1:])
        assert f"{fast:.1f} in place of {default:.1f}" in page
    signs = clean_records()["gtsrb, resnet18"]["bdmae-fast"]
    assert f"a median of {signs.cost.queries_median_clean:.0f}." in page


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
        assert rows[name] == [shown([without]), shown([with_copies])]
        assert without.victim.weights == with_copies.victim.weights


def clean_records() -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for one in RECORDS:
        if one.attack is None:
            assert one.clean_images == 500
            found.setdefault(f"{one.dataset}, {one.victim.config['architecture']}", {})[one.defense.name] = one
    return found


def test_clean_classifiers_are_those_of_the_records() -> None:
    rows = rows_of("docs/method/default-profile.md")
    found = clean_records()
    assert len(found) == 3
    for name, by_defense in found.items():
        assert rows[name] == [in_per_cent(by_defense[defense].after) for defense in DEFENSES]


def test_public_classifiers_are_those_of_the_records() -> None:
    rows, page = rows_of("docs/method/default-profile.md"), (ROOT / "docs/method/default-profile.md").read_text("utf-8")
    found = {(one.victim.config["architecture"], one.defense.name): one for one in PUBLIC}
    assert found
    for depth in {int(architecture.removeprefix("resnet")) for architecture, _ in found}:
        default, fast = (found[f"resnet{depth}", name] for name in DEFENSES[1:])
        assert default.clean_images == fast.clean_images == 2000
        assert rows[f"public ResNet-{depth}"] == [
            in_per_cent(one) for one in (default.before, default.after, fast.after)
        ]
        lost = default.before.ca.value - default.after.ca.value
        assert re.search(rf"ResNet-{depth} loses {100 * lost:.1f}\b", page)
    assert f"{2000 - found['resnet56', 'bdmae'].kept} of its 2,000 labels change" in page


def test_queries_are_those_of_the_records() -> None:
    page = (ROOT / "docs/method/default-profile.md").read_text(encoding="utf-8")
    clean = clean_records().values()
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


def test_patches_with_few_queries_are_those_of_the_records() -> None:
    rows = rows_of("docs/guides/queries-and-profiles.md")
    patches = README["patch of 3 x 3 pixels"]
    for name, defense in zip(("no defense", "`default`", "`fast`"), DEFENSES, strict=True):
        found = [of_attack(defense, attack) for attack in patches]
        assert rows[name][0] == shown(found)
        if defense != "none":
            assert rows[name][1] == f"{mean(one.cost.queries_mean for one in found):.1f}"


def test_the_records_are_of_the_profiles_and_of_clean_checkouts() -> None:
    for name, profile in (("bdmae", "default"), ("bdmae-fast", "fast")):
        expected = json.loads(json.dumps(PROFILES[profile].in_force(photographs=False).to_dict()))
        of_profile = [one for one in [*RECORDS, *PUBLIC] if one.defense.name == name]
        assert len(of_profile) == 16 + len(PUBLIC) / 2
        for one in of_profile:
            assert one.defense.config == expected
            assert not one.environment.commit.endswith("+dirty")
            assert one.cost.queries_max <= 47
