from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark_records import DEFAULT, record
from benchmarks import pareto
from maskrestore.errors import DataError
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.measure.records import Record
from maskrestore.statistics import Rate


def made(defense: str, attack: str | None, right: int, queries: float) -> Record:
    one = record(DEFAULT, right)
    after = one.after if attack else Metrics(ca=Rate(right, 20), ba=None, asr=None)
    return dataclasses.replace(
        one,
        attack=attack,
        after=after,
        defense=dataclasses.replace(one.defense, name=defense),
        cost=dataclasses.replace(one.cost, queries_mean=queries),
    )


RECORDS = [
    *(made("bdmae", "a", 18, 30), made("bdmae", "b", 16, 32), made("bdmae", None, 20, 1)),
    *(made("bdmae-fast", "a", 17, 14), made("bdmae-fast", "b", 17, 16)),
    *(made("bdmae-paper", "a", 12, 46), made("bdmae-paper", "b", 12, 46), made("bdmae-paper", "only here", 2, 9)),
    made("none", "a", 1, 1),
]


def test_marks_are_means_over_shared_attacks() -> None:
    marks = pareto.marks_of(RECORDS)
    assert {name: (mark.queries, mark.accuracy) for name, mark in marks.items()} == {
        "bdmae": (31, pytest.approx(85)),
        "bdmae-fast": (15, pytest.approx(85)),
        "bdmae-paper": (46, pytest.approx(60)),
    }
    assert marks["bdmae"].seconds == pytest.approx(1 / 40)
    with pytest.raises(DataError, match="no attack"):
        pareto.marks_of(RECORDS[-1:])


def test_the_front_is_what_nothing_beats() -> None:
    points = {
        "dear": (9.0, 90.0),
        "cheap": (1.0, 50.0),
        "beaten": (5.0, 40.0),
        "equal": (9.5, 90.0),
        "same": (1.0, 45.0),
    }
    assert pareto.front(points) == ["cheap", "dear"]


def test_the_figure_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for number, one in enumerate(RECORDS):
        cell_records(tmp_path / "set.jsonl").append(dataclasses.replace(one, name=f"{number}"))
    monkeypatch.setattr(sys, "argv", ["pareto", str(tmp_path / "pareto.png"), str(tmp_path / "set.jsonl")])
    pareto.main()
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.size == (9 * 150, int(3.4 * 150))
