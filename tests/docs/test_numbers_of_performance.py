"""Figures of the page on performance are those of the records."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

from scripts.docs import ROOT

from maskrestore.runtime.words import counted

PAGE = (ROOT / "docs/development/performance.md").read_text(encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    assert f"`{name}`" in PAGE
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results/speed" / name).read_text())
    return found


def test_photographs() -> None:
    rows = {row["images"]: row["seconds_per_image"] for row in record("photo-amx.json")["rows"]}
    assert list(rows) == [1, 8]
    names = {"authors": "authors", "exact": "`paper`", "default-exact": "`default`", "default-fast": "`fast`"}
    for contender, name in names.items():
        cells = []
        for row in rows.values():
            pairs = zip(row["authors"], row[contender], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            cells.append(f"{statistics.median(row[contender]):#.3g}, {ratio:.1f}")
        assert f"| {name} | {' | '.join(cells)} |" in PAGE


def test_the_gateway() -> None:
    kinds = {"gateway-zen3.json": "in the process", "gateway-mlserver-zen3.json": "MLServer"}
    records = [record(name) for name in kinds]
    assert [one["model"] for one in records] == list(kinds.values())
    rows = {
        "images a second of 64 clients, of the library's in one call": ("throughput_share", 100, "{:.0f} %"),
        "one image alone, more than the library takes": ("overhead_seconds_alone", 1e3, "{:.1f} ms"),
        "p99 of images at random times, at 70 % of the library's rate": (
            "p99_ratio_at_70", 1, "{:.2f} times the library's",
        ),
        "one client beside ten of another tenant, slower than beside one": ("slowed_by_10_clients", 100, "{:.1f} %"),
    }  # fmt: skip
    for name, (key, factor, form) in rows.items():
        cells = " | ".join(form.format(factor * one["summary"][key]) for one in records)
        assert f"| {name} | {cells} |" in PAGE


def test_the_memory_of_the_gateway() -> None:
    soak = record("gateway-soak-amx.json")["soak"]
    memory = soak["memory_mib"]
    assert soak["seconds"] == 1800
    assert len(memory) > 150, "read every ten seconds"
    thirds = [memory[part * len(memory) // 3 : (part + 1) * len(memory) // 3] for part in range(3)]
    first, second, third = (f"{statistics.median(one):.0f} MiB in the" for one in thirds)
    words = " ".join(PAGE.split())
    assert f"answered {soak['answered']:,} images" in words
    assert f"{first} first ten minutes, {second} next and {third} last" in words


def test_a_cluster() -> None:
    found = [record("cluster-avx512.json"), record("cluster-amx.json")]
    kinds = [{(one["way"], one.get("threads", one.get("workers"))): one for one in each["runs"]} for each in found]
    assert all(f"{each['images']:,} rendered signs" in PAGE for each in found)
    for way, count in kinds[0]:
        kind = counted(count, "thread" if way == "library" else "worker")
        rates = [runs[way, count][name] for runs in kinds for name in ("images_per_second", "steady_images_per_second")]
        cells = " | ".join(f"{one:.1f}" for one in rates)
        assert f"| {'without' if way == 'library' else 'with'} `--ray`, {kind} | {cells} |" in PAGE
    (one, other), (two, more) = (
        [running(runs, "cluster", count) / running(runs, "library", count) for runs in kinds] for count in (1, 2)
    )
    assert one >= 0.9, "a cluster with one worker loses less than a tenth"
    words = " ".join(PAGE.split())
    assert f"one worker does {one:.2f} times as many images as one thread without AMX, and {other:.2f} times" in words
    assert f"Two workers do {two:.2f} and {more:.2f} times as many as two threads" in words


def running(runs: dict[tuple[str, int], dict[str, float]], way: str, count: int) -> float:
    return runs[way, count]["steady_images_per_second"]


def test_the_memory_of_a_cluster() -> None:
    for one in record("cluster-growth-amx.json")["growth"]:
        row = f"| {one['images']:,} | {one['command_mib']:.0f} MiB | {one['worker_mib']:.0f} MiB |"
        assert row in PAGE


def test_a_large_network_on_a_gpu() -> None:
    (row,) = record("base-cuda.json")["rows"]
    authors, exact = (row["seconds_per_image"][name] for name in ("authors", "exact"))
    ratio = sorted(theirs / ours for theirs, ours in zip(authors, exact, strict=True))
    middle = sum(ratio) / len(ratio)  # of two repeats
    rate = 1 / (sum(exact) / len(exact))
    words = " ".join(PAGE.split())
    assert f"in calls of {row['images']} images with `paper`: {rate:.0f} images/s, {middle:.1f} times" in words
