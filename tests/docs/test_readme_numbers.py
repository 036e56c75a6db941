"""The results in README.md are those of the records."""

from __future__ import annotations

import re
from statistics import mean

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record

BADNETS = [f"badnets:{size}-{colour}" for size in ("1x1", "2x2", "3x3") for colour in ("color", "white")]
ROWS: dict[str, tuple[str, list[str], str]] = {
    "six BadNets patches, CIFAR-10": ("cifar10", BADNETS, "all-to-one"),
    "six BadNets patches, GTSRB": ("gtsrb", BADNETS, "all-to-one"),
    "four corners, CIFAR-10": ("cifar10", ["corners"], "all-to-one"),
    "faint patch over 22 % of the image, CIFAR-10": ("cifar10", ["blended:15x15"], "all-to-one"),
    "drawn for each image (input-aware), CIFAR-10": ("cifar10", ["input-aware"], "all-to-one"),
    "a target for each class (all-to-all), CIFAR-10": ("cifar10", ["badnets:3x3-color"], "all-to-all"),
    "all over the image (WaNet), CIFAR-10": ("cifar10", ["wanet"], "all-to-one"),
    "adaptive: repeated everywhere, CIFAR-10": ("cifar10", ["repeated"], "all-to-one"),
}
"""What each row stands for: data set, attacks that it is the mean of, and their mode."""
DEFENSES = ("none", "bdmae", "bdmae-paper")
"""In the order of the columns."""


def readme_rows() -> dict[str, list[str]]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: values for name, *values in cells if name in ROWS}


def ordinary(record: Record) -> bool:
    """Of a victim of half width that no other table asks for."""
    config = record.victim.config
    special = config.get("augmented_trigger") or config.get("restored_rate") or config["attack"] != record.attack
    return (config["architecture"], config["width"]) == ("resnet18", 32) and record.clean_images == 500 and not special


@pytest.mark.parametrize("name", ROWS)
def test_row_is_that_of_the_records(name: str) -> None:
    dataset, attacks, mode = ROWS[name]
    records = [
        record
        for record in read_records(ROOT / "benchmarks/results/local/cells.jsonl")
        if record.dataset == dataset and record.attack in attacks and record.victim.config.get("mode") == mode
    ]
    for defense, shown in zip(DEFENSES, readme_rows()[name], strict=True):
        found = [record for record in records if record.defense.name == defense and ordinary(record)]
        assert sorted(str(record.attack) for record in found) == sorted(attacks)
        rates = [mean(getattr(record.after, rate).value for record in found) for rate in ("ca", "ba", "asr")]
        assert shown == " / ".join(f"{100 * rate:.1f}" for rate in rates)


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^\| .*\d+\.\d / ", text, re.MULTILINE)) == len(ROWS)
