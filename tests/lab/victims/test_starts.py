"""Clean victims that come with the repository."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrestore.cli.lab.train_victim import victim_config
from maskrestore.errors import CheckpointError
from maskrestore.lab.data import DATASETS, ImageDataset
from maskrestore.lab.victims import (
    Augmentation,
    Recipe,
    VictimConfig,
    VictimData,
    export_victim,
    load_victim,
    read_victim_record,
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
def provided(data: VictimData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights that holds the clean victim, as a checkout's does; returns the folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    train_victim(CLEAN, data, cache=tmp_path / "origin")
    export_victim(CLEAN, folder / "small.safetensors", tmp_path / "origin")
    monkeypatch.setattr(starts, "STARTS", {"small": CLEAN})
    monkeypatch.setenv(starts.WEIGHTS_VARIABLE, str(folder))
    return folder


def never(*_: object) -> None:
    raise AssertionError("what the repository holds must not be trained again")


def test_a_provided_victim_is_measured_not_trained(provided: Path, data: VictimData, tmp_path: Path) -> None:
    record = train_victim(CLEAN, data, cache=tmp_path / "other", report=never)
    assert record["provided"] == "small"
    trained = read_victim_record(CLEAN, tmp_path / "origin")
    assert trained is not None
    assert record["seconds"] == trained["seconds"]  # those of the training, 0.0 here on a fast machine
    origin = load_victim(CLEAN, tmp_path / "origin").state_dict()
    for name, value in load_victim(CLEAN, tmp_path / "other").state_dict().items():
        assert value.dtype == origin[name].dtype
        assert torch.equal(value, origin[name].half().to(value.dtype) if value.is_floating_point() else origin[name])
    network = load_victim(CLEAN, tmp_path / "other")
    right = network(data.test.images.float() / 255).argmax(1) == data.test.labels
    assert record["clean_accuracy"] == pytest.approx(right.double().mean().item(), abs=0.1)


def test_it_is_trained_when_asked_for(provided: Path, data: VictimData, tmp_path: Path) -> None:
    assert "provided" not in train_victim(CLEAN, data, cache=tmp_path / "other", use_provided=False)


def test_other_configurations_are_not_provided(provided: Path) -> None:
    assert starts.provided_start(CLEAN) is not None
    assert starts.provided_start(replace(CLEAN, seed=1)) is None
    assert starts.provided_start(replace(CLEAN, attack="corners")) is None


def test_weights_of_another_recipe_are_refused(provided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(CLEAN, seed=1)
    monkeypatch.setattr(starts, "STARTS", {"small": other})
    with pytest.raises(CheckpointError, match="was trained with another recipe"):
        starts.provided_start(other)


@pytest.mark.parametrize("name", starts.STARTS)
def test_without_the_folder_the_error_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a wheel, which has no folder ``benchmarks`` beside it."""
    monkeypatch.setenv(starts.WEIGHTS_VARIABLE, str(tmp_path / "nowhere"))
    config = starts.STARTS[name]
    with pytest.raises(
        CheckpointError, match=f"no {name}.safetensors in .*nowhere.*{starts.WEIGHTS_VARIABLE}"
    ) as caught:
        starts.provided_start(config)
    # The command that it names trains exactly this victim.
    words = str(caught.value).partition("maskrestore train-victim ")[2].split()
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert victim_config(words[words.index("--dataset") + 1], None, 0, settings) == config
    assert "--afresh" in words


def test_a_checkout_finds_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(starts.WEIGHTS_VARIABLE, raising=False)
    assert {path.stem for path in starts.weights_folder().glob("*.safetensors")} == set(starts.STARTS)
