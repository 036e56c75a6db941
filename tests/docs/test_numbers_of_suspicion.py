"""The figures of the suspicion on its page are those of the records."""

from __future__ import annotations

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.measure.detection import DetectionRecord, detection_records
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record

DETECTIONS = list(detection_records(ROOT / "benchmarks/results/suspicion.jsonl").read().values())
EVALUATIONS = [
    one
    for one in read_records(ROOT / "benchmarks/results/default.jsonl")
    if one.attack is not None and one.defense.name == "bdmae"
]
ROWS = [
    [cell.strip(" *") for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/method/suspicion.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
]
"""The cells of each row of the page's tables."""
COVERAGES = ("1.0", "0.9", "0.8", "0.5")


def name_of(record: Record | DetectionRecord) -> str:
    mode = record.victim.config["mode"]
    return f"{record.attack}" if mode == "all-to-one" else f"{record.attack}, {mode}"


def test_areas_are_those_of_the_records() -> None:
    found = {}
    for one in EVALUATIONS:
        assert one.suspicion is not None
        assert one.suspicion.auroc is not None
        others = {other.detector: other for other in DETECTIONS if name_of(other) == name_of(one)}
        if not others:
            continue  # a row of the README only
        assert others.keys() == DETECTORS.keys()
        assert {(other.clean_images, other.triggered_images) for other in others.values()} == {(100, 100)}
        assert {other.victim.digest for other in others.values()} == {one.victim.digest}
        areas = [one.suspicion.auroc, *(others[name].auroc for name in DETECTORS)]
        found[name_of(one)] = [f"{area.value:.2f}" for area in areas]
    assert {row[0]: row[1:] for row in ROWS if len(row) == 6 and row[1].startswith(("0.", "1."))} == found


def test_wrong_answers_are_those_of_the_records() -> None:
    found = {}
    for one in EVALUATIONS:
        if name_of(one) not in map(name_of, DETECTIONS):
            continue
        assert one.suspicion is not None
        assert one.suspicion.doubtful_triggered is not None
        doubtful = (one.suspicion.doubtful_clean, one.suspicion.doubtful_triggered)
        found[name_of(one)] = [
            *(f"{100 * one.suspicion.risks[share]:.1f}" for share in COVERAGES),
            " / ".join(f"{100 * rate.value:.1f}" for rate in doubtful),
        ]
    assert {row[0]: row[1:] for row in ROWS if len(row) == 6 and "/" in row[5] and row[0] != "attack"} == found
