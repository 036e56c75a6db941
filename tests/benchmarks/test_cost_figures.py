import sys
from pathlib import Path

import pytest
from benchmarks.speed_cases import SIGNS
from test_speed import SHORT

from benchmarks import cost_figures
from maskrestore import MAERestorer
from maskrestore.distributed.cost import read_figures
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig

SPEED = Path(__file__).parents[2] / "benchmarks/results/speed"


def test_a_core_is_measured_and_a_record_of_a_gpu_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = ConvMAE(ConvMAEConfig(image_size=32, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    monkeypatch.setattr(cost_figures, "named_restorer", lambda name, device: MAERestorer(small))
    monkeypatch.setattr(cost_figures, "PROFILES", SHORT)
    monkeypatch.setattr(cost_figures, "_keep_to_one_core", lambda: None)
    path, speed = tmp_path / "figures.json", str(SPEED / "tiny-conv-cuda.json")
    words = ["--restorers", "mae-tiny-32", "--images", "3", "--repeats", "2", "--speed", speed, "--out", str(path)]
    words += ["--profiles", "fast"]
    monkeypatch.setattr(sys, "argv", ["cost_figures", *words])
    cost_figures.main()
    gpu, core = read_figures(path)
    monkeypatch.setattr(sys, "argv", ["cost_figures", *words, "paper", "--keep"])
    cost_figures.main()
    assert read_figures(path)[:2] == [gpu, core]
    assert [one.profile for one in read_figures(path)] == ["fast", "fast", "paper", "paper"]
    assert (core.unit, core.restorer, core.profile, core.size) == ("core", "mae-tiny-32", "fast", 32)
    assert [(one.triggered, one.images) for one in core.measured] == [(0.0, 3), (1.0, 3)]
    assert all(1 <= one.queries <= SHORT["fast"].max_queries for one in core.measured)
    assert core.result is not None
    assert 100 < core.result.image < 32 * 32 * 3 + 100
    assert core.result.maps > 100
    assert core.result.record > 100
    assert (gpu.unit, gpu.machine, gpu.result) == ("GPU", "NVIDIA H200", None)
    (measured,) = gpu.measured
    assert (measured.images, measured.queries, measured.seconds) == (64, 8.48, 0.00156)
    assert gpu.source.endswith("with the classifier")


def test_records_of_processors_are_refused() -> None:
    with pytest.raises(SystemExit, match="was not measured on a GPU"):
        cost_figures.figures_of_speed(SPEED / "tiny-conv-zen3.json", ["fast"])


def test_pictures_of_both_kinds_are_those_of_the_victim() -> None:
    victim, side = SIGNS["tiny-conv"]
    parts = cost_figures.pictures(victim, side, 4)
    assert list(parts) == [0.0, 1.0]
    assert {tuple(images.shape) for images in parts.values()} == {(4, 3, 32, 32)}
    marked = (parts[1.0][:, :, 21:24, 14:17] - parts[1.0][:1, :, 21:24, 14:17]).abs().amax(dim=(1, 2, 3))
    plain = (parts[0.0][1:, :, 21:24, 14:17] - parts[0.0][:1, :, 21:24, 14:17]).abs().amax(dim=(1, 2, 3))
    assert marked.max() < 0.01  # all of them show the trigger at its place
    assert plain.min() > 0.05
