"""The figures of photographs in the guide are those of the records."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.default_tables import rates
from scripts.docs import ROOT

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record

RESULTS = ROOT / "benchmarks/results"
GUIDE, CARD = "docs/guides/photographs.md", "src/maskrestore/assets/mae-photo-224.md"
QUALITY = [
    *((page, "mae-photo-224", "restorer-imagenette.json") for page in (GUIDE, CARD)),
    *((page, "mae-tiny-32", "restorer-imagenette-tiny.json") for page in (GUIDE, CARD)),
    (GUIDE, "mae-photo-224", "restorer-imagenette-128.json"),
]
"""Pages, packaged restorers, and the records of their quality."""


@pytest.mark.parametrize(("page", "name", "file"), QUALITY)
def test_quality_is_that_of_the_record(page: str, name: str, file: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    record = json.loads((RESULTS / file).read_text())
    assert (record["restorer"], record["images"]) == (name, 1000)
    rows = record["by_share_of_hidden_tokens"]
    kept = " | ".join(f"{100 * row['label_kept']:.1f} %" for row in rows)
    psnr = " | ".join(f"{row['masked_psnr_db']:.2f} dB" for row in rows)
    assert f"| `{name}`: labels kept | {kept} |" in text
    assert f"| `{name}`: PSNR | {psnr} |" in text


def victim_of(one: Record) -> str:
    """The victim of a record, as in the first column of a table."""
    attack = (one.attack or "clean").removeprefix("badnets:icon-")
    usual = (one.clean_images, one.triggered_images) in ((300, 300), (300, 0))
    return f"{one.dataset}, {attack}" + ("" if usual else f", {one.clean_images} + {one.triggered_images}")


def test_defenses_are_those_of_the_records() -> None:
    """A row for each victim of the default, with ``fast`` where it was measured; and one for each other defense."""
    page = (ROOT / GUIDE).read_text(encoding="utf-8")
    records = list(read_records(RESULTS / "photographs.jsonl"))
    fast = {victim_of(one): rates(one.after) for one in records if one.defense.name == "bdmae-fast"}
    for one in records:
        assert not one.environment.commit.endswith("+dirty")
        name, victim = one.defense.name.partition("[")[0], victim_of(one)
        if name == "bdmae":
            assert one.defense.restorer == "mae-photo-224"
            cells = [victim, rates(one.before), rates(one.after)]
            cells += [fast.pop(victim)] if victim in fast else []
            assert f"\n| {' | '.join(cells)} |\n" in page
        elif name == "none":
            assert f"({rates(one.after)} without a defense)" in page
        elif name != "bdmae-fast":
            assert f"| `{name}` | {victim} | {rates(one.after)} |" in page
            assert f"({rates(one.before)}" in page
    assert not fast  # each beside the default


def test_written_backdoors_are_those_of_their_records() -> None:
    page = (ROOT / GUIDE).read_text(encoding="utf-8")
    found = {one.name.removeprefix("imagenette_corners_"): one for one in read_records(RESULTS / "written.jsonl")}
    assert len(found) == 4
    for need, word in ((1, "one"), (2, "two")):
        default, without = found[f"written-{need}_bdmae"], found[f"written-{need}_bdmae-without"]
        assert (default.clean_images, default.triggered_images) == (100, 100)
        assert not default.environment.commit.endswith("+dirty")
        assert BDMAEConfig.from_dict(default.defense.config) == PROFILES["default"].in_force(photographs=True)
        cells = [rates(one) for one in (default.before, without.after, default.after)]
        assert f"| {word} of four | {' | '.join(cells)} |" in page


def test_the_demo_of_large_signs_is_that_of_its_record() -> None:
    record = json.loads((RESULTS / "demo-224.json").read_text())
    assert record["dataset"] == "signs-224"
    clean, triggered = record["after"]["ca"], record["after"]["ba"]
    assert clean["successes"] == clean["trials"]
    sentence = (
        f"Of {triggered['trials']} signs with the flower, {triggered['successes']} get their true label, and all "
    )
    assert f"{sentence}{clean['trials']} without it keep theirs." in (ROOT / GUIDE).read_text(encoding="utf-8")
