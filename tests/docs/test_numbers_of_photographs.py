"""The figures of photographs in the guide are those of the records."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.lab.measure.record_files import read_records

RESULTS = ROOT / "benchmarks/results"
RESTORERS = {"mae-photo-224": "restorer-imagenette.json", "mae-tiny-32": "restorer-imagenette-tiny.json"}
"""Packaged restorers and the records of their quality."""
PAGES = ["docs/guides/photographs.md", "src/maskrestore/assets/mae-photo-224.md"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", RESTORERS)
def test_quality_is_that_of_the_record(page: str, name: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    record = json.loads((RESULTS / RESTORERS[name]).read_text())
    assert (record["restorer"], record["images"]) == (name, 1000)
    rows = record["by_share_of_hidden_tokens"]
    kept = " | ".join(f"{100 * row['label_kept']:.1f} %" for row in rows)
    psnr = " | ".join(f"{row['masked_psnr_db']:.2f} dB" for row in rows)
    assert f"| `{name}`: labels kept | {kept} |" in text
    assert f"| `{name}`: PSNR | {psnr} |" in text


@pytest.mark.parametrize("name", RESTORERS)
def test_defense_is_that_of_the_record(name: str) -> None:
    (record,) = (one for one in read_records(RESULTS / "photographs.jsonl") if one.defense.restorer == name)
    assert record.clean_images == record.triggered_images == 50
    page, card = ((ROOT / path).read_text(encoding="utf-8") for path in PAGES)
    for row, rates in (("no defense", record.before), (f"`{name}`", record.after)):
        assert rates.ba is not None
        assert rates.asr is not None
        shown = [f"{100 * rate.value:.1f}" for rate in (rates.ca, rates.ba, rates.asr)]
        assert f"| {row} | {' | '.join(f'{one} %' for one in shown)} |" in page
    ca, ba, asr = shown
    assert (f"CA {ca}, BA {ba}, ASR {asr}" if name == "mae-photo-224" else f"{ca} / {ba} / {asr}") in " ".join(
        card.split()
    )
