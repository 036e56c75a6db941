"""Clean victims that come with the package."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrestore.errors import CheckpointError
from maskrestore.lab.data import DATASETS, ImageDataset
from maskrestore.lab.victims import (
    Augmentation,
    Recipe,
    VictimConfig,
    VictimData,
    export_victim,
    load_victim,
    starts,
    train_victim,
)

RECIPE = Recipe(epochs=1, learning_rate=0.02, batch_size=20, augmentation=Augmentation(shift=1, flip=False))
CLEAN = VictimConfig(dataset="cifar10", width=4, recipe=RECIPE)


def pictures(count: int) -> ImageDataset:
    generator = torch.Generator().manual_seed(count)
    return ImageDataset(
        name="cifar10",
        images=torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, 10, (count,), generator=generator),
        class_names=DATASETS["cifar10"].class_names,
    )


@pytest.fixture
def data() -> VictimData:
    return VictimData(train=pictures(40), test=pictures(30))


@pytest.fixture
def packaged(data: VictimData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds the clean victim; returns its folder of weights."""
    assets = tmp_path / "package/assets"
    assets.mkdir(parents=True)
    train_victim(CLEAN, data, cache=tmp_path / "origin")
    export_victim(CLEAN, assets / "small.safetensors", tmp_path / "origin")
    monkeypatch.setattr(starts, "STARTS", {"small": CLEAN})
    monkeypatch.setattr(starts, "files", lambda _: assets.parent)
    return assets


def never(*_: object) -> None:
    raise AssertionError("what the package holds must not be trained again")


def test_a_packaged_victim_is_measured_not_trained(packaged: Path, data: VictimData, tmp_path: Path) -> None:
    record = train_victim(CLEAN, data, cache=tmp_path / "other", report=never)
    assert record["packaged"] == "small"
    assert record["seconds"] > 0
    origin = load_victim(CLEAN, tmp_path / "origin").state_dict()
    for name, value in load_victim(CLEAN, tmp_path / "other").state_dict().items():
        assert value.dtype == origin[name].dtype
        assert torch.equal(value, origin[name].half().to(value.dtype) if value.is_floating_point() else origin[name])
    network = load_victim(CLEAN, tmp_path / "other")
    right = network(data.test.images.float() / 255).argmax(1) == data.test.labels
    assert record["clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=0.1)


def test_it_is_trained_when_asked_for(packaged: Path, data: VictimData, tmp_path: Path) -> None:
    assert "packaged" not in train_victim(CLEAN, data, cache=tmp_path / "other", use_package=False)


def test_other_configurations_are_not_packaged(packaged: Path) -> None:
    assert starts.packaged_start(CLEAN) is not None
    assert starts.packaged_start(replace(CLEAN, seed=1)) is None
    assert starts.packaged_start(replace(CLEAN, attack="corners")) is None


def test_a_package_of_another_recipe_is_refused(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(CLEAN, seed=1)
    monkeypatch.setattr(starts, "STARTS", {"small": other})
    with pytest.raises(CheckpointError, match="of another recipe"):
        starts.packaged_start(other)
