import dataclasses
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskrestore.cli.lab.evaluate import _defenses
from maskrestore.errors import CheckpointError
from maskrestore.lab.baselines import diffusion_models
from maskrestore.lab.measure.restoration_cache import CachedRestorer
from maskrestore.lab.paper.cells import Case, Cell, Variant, expand
from maskrestore.lab.paper.scales import SCALES
from maskrestore.lab.runner.resources import diffusion_digest, make_resources
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.lab.show.leaderboard import diffusion_model_of
from maskrestore.mae.restorer import MAERestorer
from toy_resources import ToyResources


def diffusion_model(folder: Path, value: float) -> Path:
    network = folder / "unet"
    network.mkdir(parents=True)
    (network / "config.json").write_text("{}")
    save_file({"weight": torch.full((2,), value)}, network / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_diffusion_model_is_known_by_its_weights_and_not_by_its_place(tmp_path):
    one, copy, other = (diffusion_model(tmp_path / name, value) for name, value in (("a", 1), ("b", 1), ("c", 2)))
    assert diffusion_digest(one) == diffusion_digest(copy) != diffusion_digest(other)
    assert diffusion_digest(one / "unet") == diffusion_digest(one)
    with pytest.raises(CheckpointError, match="contains no diffusion model"):
        diffusion_digest(tmp_path)


def test_a_record_names_the_weights_of_its_diffusion_model(tmp_path, monkeypatch):
    monkeypatch.setattr(
        diffusion_models, "load_denoiser", lambda *_, **__: types.SimpleNamespace(image_size=32, precision="float32")
    )
    folder = diffusion_model(tmp_path / "model", 1)
    case = Case(dataset="cifar10", attack="corners")
    cell = Cell(case=case, variant=Variant(defense="diffpure-ddpm"), scale=SCALES["smoke"])
    entry = make_resources(diffusion=folder).defense(cell).entry
    assert (entry.name, entry.restorer, entry.config["model"]) == ("diffpure-ddpm", "model", "model")
    assert entry.restorer_weights == diffusion_digest(folder)

    def record(**changes):
        return types.SimpleNamespace(defense=dataclasses.replace(entry, **changes))

    # The page of results finds the cells of that model by what most records say.
    without = record(restorer_weights=None)
    bdmae = record(config={"masks": {"rounds": 5}}, restorer_weights="0" * 16)
    records = [without, without, bdmae, bdmae, record(restorer_weights="other"), record(), record()]
    assert diffusion_model_of(records) == diffusion_digest(folder)
    assert diffusion_model_of([without, bdmae]) is None


def test_a_diffusion_model_runs_on_the_device_and_its_record_is_the_same_everywhere(tmp_path, monkeypatch):
    devices = []

    def load(*_, device, **__):
        devices.append(device)
        return types.SimpleNamespace(image_size=32, precision="float32")

    monkeypatch.setattr(diffusion_models, "load_denoiser", load)
    cell = Cell(case=Case(dataset="cifar10", attack="corners"), variant=Variant(defense="zip"), scale=SCALES["smoke"])
    for folder in (None, diffusion_model(tmp_path / "model", 1)):
        here, there = (make_resources(diffusion=folder, device=name).defense(cell).entry for name in ("cpu", "cuda"))
        assert here == there
    asked = {"dataset": "cifar10", "architecture": "resnet18", "restorer": "mae-tiny-32"}
    (record,) = _defenses(["zip"], [], **asked, device="cuda", key=0, max_queries=None)
    assert record.entry.name == "zip"
    assert devices == ["cpu", "cuda"] * 2 + ["cuda"]


def test_points_of_a_curve_share_a_cached_restorer():
    resources = make_resources()
    shares = dataclasses.replace(SCALES["smoke"], shares_restorations=True)
    case = Case(dataset="cifar10", attack="corners")

    def defense(scale, rounds):
        variant = Variant(defense="bdmae-paper", settings=(("masks.rounds", rounds),))
        return resources.defense(Cell(case=case, variant=variant, scale=scale))

    one, other = defense(shares, rounds=2), defense(shares, rounds=3)
    assert isinstance(one.defense.restorer, CachedRestorer)
    assert one.defense.restorer is other.defense.restorer
    assert one.shares_restorations
    alone = defense(SCALES["smoke"], rounds=2)
    assert isinstance(alone.defense.restorer, MAERestorer)
    assert alone.entry == one.entry
    assert not alone.shares_restorations


def test_points_of_a_curve_stand_for_no_cell_of_a_table(tmp_path):
    entry = (Case(dataset="cifar10", attack="corners"), Variant(defense="none"))
    cells = [
        *expand([entry], SCALES["smoke"]),
        *expand([entry], dataclasses.replace(SCALES["smoke"], shares_restorations=True, images=3)),
    ]
    toy = ToyResources(tmp_path).make()
    defense = toy.defense
    sharing = dataclasses.replace(
        toy, defense=lambda cell: dataclasses.replace(defense(cell), shares_restorations=cell.scale.shares_restorations)
    )
    run_cells(cells, tmp_path, sharing)
    digests = [ResultsFolder(tmp_path).record_of(cell).digest for cell in cells]
    assert list(make_resources(known=[tmp_path]).known) == digests[:1]
