import json
from pathlib import Path

import pytest
import torch
from benchmarks.stages import Clock

from benchmarks import speed
from maskrestore import BDMAEConfig
from maskrestore.mae.vit import ViTMAE, ViTMAEConfig
from maskrestore.victims import ResNet18


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> speed.Case:
    small = ViTMAEConfig(
        image_size=32, patch_size=4, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2
    )
    monkeypatch.setattr(speed, "PROFILES", {"paper": BDMAEConfig(rounds=2, refinement_steps=1)})
    monkeypatch.setattr(speed, "load_network", lambda name: ViTMAE(small))
    monkeypatch.setattr(speed, "ResNet18", lambda classes, width: ResNet18(classes, width=4))
    return speed.make_case("tiny-conv", 2, Clock("cpu", "wall"))


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_only_precisions_in_use_are_timed_and_the_table_says_which(
    fast: str, case: speed.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[torch.dtype] = []
    monkeypatch.setattr(speed, "fast_arithmetic", lambda device: fast)
    monkeypatch.setattr(speed, "matmul_rate", lambda dtype, clock: timed.append(dtype) or 100.0)
    row = speed.measure(case, ["authors", "float32"], 1)
    assert timed == ([torch.float32] if fast == "float32" else [torch.float32, torch.bfloat16])
    record = {
        "rows": [row],
        "repeats": 1,
        "clock": "wall",
        "note": "",
        "fast_arithmetic": fast,
        "environment": {"accelerator": None, "device": "cpu", "threads": 1, "libraries": {"torch": "2"}, "commit": "c"},
    }
    json.dumps(record)
    text = speed.table(record)
    assert ("not fast in bfloat16" in text) == (fast == "float32")
    assert row["float32"]["times_authors"] > 0
    assert sum(row["float32"]["shares"].values()) == pytest.approx(1, abs=0.01)
    # Scoring, a step of refinement, restorations: no pass is left out.
    assert row["float32"]["passes_per_image"] >= 10 + 1


def test_a_run_without_a_record_prints_its_table(
    case: speed.Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "make_case", lambda *arguments: case)
    monkeypatch.setattr(speed, "matmul_rate", lambda dtype, clock: 100.0)
    monkeypatch.chdir(tmp_path)
    arguments = ["speed", "--cases", "tiny-conv", "--contenders", "float32", "--repeats", "1", "--clock", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    speed.main()
    assert "| tiny-conv (float32) | 2 |" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", [*arguments, "--out", "record.json"])
    speed.main()
    assert json.loads((tmp_path / "record.json").read_text())["rows"][0]["images"] == 2
    assert (tmp_path / "record.md").read_text().startswith("| case |")
