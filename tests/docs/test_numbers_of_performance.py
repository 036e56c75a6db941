"""Figures of the page on performance are those of the records."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

PAGE = (ROOT / "docs/development/performance.md").read_text(encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    assert f"`{name}`" in PAGE
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results/speed" / name).read_text())
    return found


def test_the_gateway() -> None:
    found = record("gateway-zen3.json")
    assert found["model"] == "in the process"
    held = found["summary"]
    rows = {
        "images a second of 64 clients, of the library's in one call": f"{100 * held['throughput_share']:.0f} %",
        "one image alone, more than the library takes": f"{1e3 * held['overhead_seconds_alone']:.1f} ms",
        "p99 of images at random times, at 70 % of the library's rate": (
            f"{held['p99_ratio_at_70']:.2f} times the library's"
        ),
        "one client beside ten of another tenant, slower than beside one": (
            f"{100 * held['slowed_by_10_clients']:.1f} %"
        ),
    }
    for name, value in rows.items():
        assert f"| {name} | {value} |" in PAGE


def test_a_large_network_on_a_gpu() -> None:
    (row,) = record("base-cuda.json")["rows"]
    authors, exact = (row["seconds_per_image"][name] for name in ("authors", "exact"))
    ratio = sorted(theirs / ours for theirs, ours in zip(authors, exact, strict=True))
    middle = sum(ratio) / len(ratio)  # of two repeats
    rate = 1 / (sum(exact) / len(exact))
    words = " ".join(PAGE.split())
    assert f"in calls of {row['images']} images with `paper`: {rate:.0f} images/s, {middle:.1f} times" in words
