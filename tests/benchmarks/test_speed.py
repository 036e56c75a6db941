import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.contenders import AUTHORS, CONTENDERS, is_meaningful, make_run
from benchmarks.cost_model import restoring_pass
from benchmarks.speed_cases import Truth
from benchmarks.speed_tables import _of_matmul_rate
from benchmarks.stages import Clock, scaled_to_grid, vit_flop

from benchmarks import speed, speed_cases
from maskrestore import BDMAEConfig, with_settings
from maskrestore.defense.beyond_paper.budget import fast
from maskrestore.lab.victims import ResNet18
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS, ViTMAEConfig

SHORT = {
    "paper": with_settings(BDMAEConfig(), {"masks.rounds": 1, "refinement.steps": 1}),
    "default": with_settings(
        BDMAEConfig(), {"masks.rounds": 1, "refinement": None, "transfer_test.cloud_grids": (20,)}
    ),
}
SHORT |= {"fast": fast(SHORT["default"]), "paper-fast": fast(SHORT["paper"])}
OURS = list(CONTENDERS)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes of small networks; the packaged victim and the signs are what they are."""
    vit = ViTMAEConfig(
        image_size=32, patch_size=4, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2
    )
    conv = ConvMAEConfig(image_size=32, widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,))
    monkeypatch.setattr(speed_cases, "PROFILES", SHORT)
    monkeypatch.setattr(speed_cases, "VIT_PRESETS", {"tiny-32": vit})
    monkeypatch.setattr(speed_cases, "ViTMAE", lambda _: ViTMAE(vit))
    monkeypatch.setattr(speed_cases, "load_network", lambda _: ConvMAE(conv))
    monkeypatch.setattr(speed_cases, "ResNet18", lambda classes, width: ResNet18(classes, width=4))
    monkeypatch.setattr(speed, "matmul_rate", lambda precision, clock: 100.0)


@pytest.fixture
def signs(short: None) -> speed_cases.Case:
    return speed_cases.make_case("tiny-conv", 4, Clock("cpu", "wall"), triggered_share=0.5)


@pytest.fixture
def noise(short: None) -> speed_cases.Case:
    return speed_cases.make_case("tiny-vit", 2, Clock("cpu", "wall"))


def record(*rows: dict[str, object], fast: str = "float32") -> dict[str, object]:
    environment = {"accelerator": None, "device": "cpu", "threads": 1, "libraries": {"torch": "2"}, "commit": "c"}
    found = {"repeats": 1, "clock": "wall", "note": "", "fast_arithmetic": fast, "environment": environment}
    return json.loads(json.dumps({"rows": rows, **found}))


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_only_precisions_in_use_are_timed_and_the_table_says_which(
    fast: str, noise: speed_cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    monkeypatch.setattr(speed, "fast_arithmetic", lambda device: fast)
    monkeypatch.setattr(speed, "matmul_rate", lambda precision, clock: timed.append(precision) or 100.0)
    row = speed.measure(noise, [AUTHORS, "float32"], 1)
    repeat = ["float32"] if fast == "float32" else ["float32", "bfloat16"]
    assert timed == [*repeat, "float32"]  # the last one for the profile of the contender in float32
    assert ("not fast in bfloat16" in speed.table(record(row, fast=fast))) == (fast == "float32")
    assert row["float32"]["times_authors"] > 0
    assert sum(row["float32"]["profile"]["shares"].values()) == pytest.approx(1, abs=0.01)
    # Scoring, a step of refinement: no pass is left out, and filling up only adds some.
    for name in (AUTHORS, "float32"):
        assert row[name]["passes_per_image"] >= 5 + 1
        assert row[name]["rates"] == {}
    assert row["float32"]["profile"]["filled_passes_per_image"] >= row["float32"]["passes_per_image"]


def test_speed_and_accuracy_stand_side_by_side(signs: speed_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # The operations of a convolution are counted by torch, which takes seconds to import what it does that with.
    monkeypatch.setattr(speed, "flop_of", lambda network, passes: 1e9 * passes.total())
    names = [AUTHORS, "exact", "default-fast"]
    row = speed.measure(signs, names, 1)
    assert (row["images"], row["triggered"]) == (4, 2)
    # The packaged victim falls for its trigger, so that there is something to find.
    assert row["undefended"]["attack"]["value"] == 1
    for name in names:
        assert {kind: rate["images"] for kind, rate in row[name]["rates"].items()} == {
            "clean": 2,
            "triggered": 2,
            "attack": 2,
        }
        most = (CONTENDERS[name].config(signs) if name in CONTENDERS else SHORT["paper"]).max_queries
        assert 1 < row[name]["queries_per_image"] <= most
        assert 1 < row[name]["queries_median_clean"] <= most
    text = speed.table(record(row))
    for name in ("undefended", *names):
        assert f"| tiny-conv | {name} | 4, 2 triggered |" in text


def test_noise_starts_with_the_label_that_most_masks_keep(noise: speed_cases.Case) -> None:
    for name, count in (("tiny-vit", 1), ("tiny-vit", 20)):
        case = speed_cases.make_case(name, count, Clock("cpu", "wall"))
        assert case.classifier()(case.images).tolist() == [0] * count
    restored = torch.rand(200, 3, 32, 32)
    assert 2 < noise.classifier()(restored).sum() < 60


def test_the_rate_of_a_whole_run_is_the_median_over_its_repeats() -> None:
    contender = {"profile": {"precision": "bfloat16", "gflop_per_image": 100.0}}
    seconds = {"ours": [1.0, 2.0, 4.0], AUTHORS: [9.0, 9.0, 9.0]}
    row = {"seconds_per_image": seconds, "ours": contender, AUTHORS: {}, "matmul_gflops": {"bfloat16": [200, 200, 50]}}
    assert _of_matmul_rate(row, "ours") == "50%"
    assert _of_matmul_rate(row, AUTHORS) == "-"
    assert _of_matmul_rate(row | {"matmul_gflops": {"float32": [1.0]}}, "ours") == "-"


def test_contenders_run_their_profile(signs: speed_cases.Case) -> None:
    assert CONTENDERS["exact"].config(signs) == SHORT["paper"]
    assert CONTENDERS["fast"].config(signs) == SHORT["paper-fast"]
    assert CONTENDERS["default-exact"].config(signs) == SHORT["default"]
    assert CONTENDERS["default-fast"].config(signs) == SHORT["fast"]


@pytest.mark.parametrize("name", [AUTHORS, "exact", "fast"])
def test_every_repeat_gives_the_same_answers_for_the_same_bill(name: str, signs: speed_cases.Case) -> None:
    run = make_run(name, signs)
    one, other = run(signs.images), run(signs.images)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.queries, other.queries)
    assert one.passes == other.passes
    assert one.passes.total() > 0


def test_synthetic_labels_are_not_used_to_time_profiles_that_depend_on_them(
    noise: speed_cases.Case, signs: speed_cases.Case
) -> None:
    meaningful = [AUTHORS, "float32", "exact", "exact-int8"]
    assert [name for name in (AUTHORS, *OURS) if is_meaningful(name, noise)] == meaningful
    assert all(is_meaningful(name, signs) for name in (AUTHORS, *OURS))


@pytest.mark.parametrize(("share", "kinds"), [(0, {"clean"}), (0.25, {"clean", "triggered", "attack"})])
def test_the_share_of_triggered_signs_is_kept(short: None, share: float, kinds: set[str]) -> None:
    case = speed_cases.make_case("tiny-conv", 8, Clock("cpu", "wall"), triggered_share=share)
    assert case.truth is not None
    assert int(case.truth.triggered.sum()) == 8 * share
    assert set(speed.rates_of(case.truth, case.truth.labels)) == kinds


def test_rates_are_of_their_own_images() -> None:
    truth = Truth(
        labels=torch.tensor([0, 1, 2, 3]),
        wanted=torch.tensor([9, 9, 9, 9]),
        triggered=torch.tensor([False, False, False, True]),
    )
    found = speed.rates_of(truth, torch.tensor([0, 1, 9, 9]))
    assert {name: (rate["value"], rate["images"]) for name, rate in found.items()} == {
        "clean": (2 / 3, 3),
        "triggered": (0, 1),
        "attack": (1, 1),
    }


def test_passes_keep_their_shares_on_another_grid() -> None:
    assert scaled_to_grid(Counter({64: 3, 240: 1}), 16, 14) == {49: 3, 184: 1}
    base = VIT_PRESETS["base"]
    expected = 3 * restoring_pass(base, 49).total + restoring_pass(base, 184).total
    assert vit_flop(base, scaled_to_grid(Counter({64: 3, 240: 1}), 16, 14)) == expected


def test_a_run_without_a_record_prints_its_table(
    noise: speed_cases.Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "make_case", lambda *arguments, **named: noise)
    monkeypatch.chdir(tmp_path)
    arguments = ["speed", "--cases", "tiny-vit", "--contenders", "float32", "--repeats", "1", "--clock", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    speed.main()
    assert "| tiny-vit | float32 | 2 |" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", [*arguments, "--out", "record.json"])
    speed.main()
    assert json.loads((tmp_path / "record.json").read_text())["rows"][0]["images"] == 2
    assert (tmp_path / "record.md").read_text().startswith("| case |")


def test_a_run_that_is_stopped_leaves_the_rows_it_has(
    noise: speed_cases.Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [speed.measure(noise, ["float32"], 1)]

    def measured(*_: object) -> dict[str, Any]:
        if not rows:
            raise KeyboardInterrupt
        return rows.pop()

    monkeypatch.setattr(speed, "make_case", lambda *arguments, **named: noise)
    monkeypatch.setattr(speed, "measure", measured)
    out = tmp_path / "record.json"
    monkeypatch.setattr("sys.argv", ["speed", "--cases", "base", "--batches", "1", "8", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        speed.main()
    assert [row["case"] for row in json.loads(out.read_text())["rows"]] == ["tiny-vit"]
    assert "| tiny-vit | float32 |" in out.with_suffix(".md").read_text()


def test_a_case_without_meaningful_contenders_is_reported(
    noise: speed_cases.Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "make_case", lambda *arguments, **named: noise)
    monkeypatch.setattr("sys.argv", ["speed", "--cases", "tiny-vit", "--contenders", "fast"])
    speed.main()
    assert "tiny-vit: nothing to time" in capsys.readouterr().out
