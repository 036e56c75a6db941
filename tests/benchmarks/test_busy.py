import json
import sys
from pathlib import Path

import pytest
from benchmarks.busy import GNU_SPINS, main

from maskrestore.runtime.openmp import SPINS


def test_every_setting_is_timed_alone_and_beside_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.busy.PURIFY", "import os; print(os.environ['GOMP_SPINCOUNT'])")
    monkeypatch.setattr("benchmarks.busy.MULTIPLY", "import time; time.sleep(600)")
    monkeypatch.setattr("benchmarks.busy.STARTING", 0.0)
    monkeypatch.setattr(sys, "argv", ["busy", "--repeats", "1", "--out", str(tmp_path / "busy.json")])
    main()
    rows = json.loads((tmp_path / "busy.json").read_text())["rows"]
    settings = [(GNU_SPINS, False), (SPINS, False), (GNU_SPINS, True), (SPINS, True)]
    assert [(row["spins"], row["beside_another_program"]) for row in rows] == settings
    # Each process saw its own setting.
    assert [row["seconds_per_image"] for row in rows] == [[row["spins"]] for row in rows]
