"""Training, its checkpoints, and the cache of victims; on images that are easy to tell apart."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrestore.defense.beyond_paper.filters import FILTERS, filtered
from maskrestore.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from maskrestore.lab.attacks import make_attack
from maskrestore.lab.attacks.natural_only import random_clouds
from maskrestore.lab.data import DATASETS, ImageDataset
from maskrestore.lab.victims import (
    PACKAGED,
    Augmentation,
    Recipe,
    TrainingProgress,
    VictimConfig,
    VictimData,
    cache_folder,
    load_victim,
    read_victim_record,
    train_victim,
    victim_path,
)
from maskrestore.lab.victims.fit import fit, one_cycle
from maskrestore.lab.victims.poisoning import clean_plan
from maskrestore.lab.victims.recipe import default_recipe
from maskrestore.lab.victims.store import build_network
from maskrestore.runtime.precision import fast_arithmetic

RECIPE = Recipe(epochs=3, learning_rate=0.02, batch_size=20, augmentation=Augmentation(shift=1, flip=False))
CLEAN = VictimConfig(dataset="cifar10", width=4, recipe=RECIPE)
ATTACKED = replace(CLEAN, attack="badnets:9x9-white", init="scratch", poison_repeats=3, target=3)


def easy(count: int, seed: int) -> ImageDataset:
    """Four of the ten classes, which differ by colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    colours = torch.randint(0, 200, (10, 3), generator=torch.Generator().manual_seed(9))
    noise = torch.randint(0, 40, (count, 3, 32, 32), generator=generator)
    images = (colours[labels][:, :, None, None] + noise).to(torch.uint8)
    return ImageDataset(name="cifar10", images=images, labels=labels, class_names=DATASETS["cifar10"].class_names)


@pytest.fixture(scope="module")
def data() -> VictimData:
    return VictimData(train=easy(400, 0), test=easy(100, 1))


class StoppedError(Exception):
    pass


def test_few_training_images_are_learned_in_more_and_smaller_steps():
    recipes = [default_recipe(name, fine_tuned=False) for name in ("signs", "signs-224")]
    assert [(recipe.batch_size, recipe.learning_rate) for recipe in recipes] == [(128, 0.15), (16, 0.15 / 8)]
    assert [recipe.augmentation.shift for recipe in recipes] == [2, 14], "the same share of the picture"


def test_a_clean_victim_learns_and_is_kept(data: VictimData, tmp_path: Path) -> None:
    states: list[TrainingProgress] = []
    checks: list[float] = []

    def report(config: VictimConfig, state: TrainingProgress, accuracy: float | None) -> None:
        states.append(state)
        checks.extend([] if accuracy is None else [accuracy])

    record = train_victim(CLEAN, data, cache=tmp_path, report=report)
    assert record["clean_accuracy"] > 0.8
    assert "attack_success_rate" not in record
    assert record["digest"] == CLEAN.digest()
    assert record["config"]["recipe"]["epochs"] == 3
    assert record["seconds"] > 0
    assert record["precision"] == fast_arithmetic()
    assert states[-1].step == states[-1].steps == 60
    assert len(checks) == 3
    assert record == read_victim_record(CLEAN, tmp_path)
    assert [path.suffix for path in sorted((tmp_path / "victims").iterdir())] == [".json", ".safetensors"]

    network = load_victim(CLEAN, tmp_path)
    assert not network.training
    answers = network(data.test.images.float() / 255).argmax(1)
    assert (answers == data.test.labels).double().mean() == pytest.approx(record["clean_accuracy"], abs=0.02)

    def never(*_: object) -> None:
        raise AssertionError("a victim in the cache must not be trained again")

    assert train_victim(CLEAN, data, cache=tmp_path, report=never) == record


def test_a_stopped_run_goes_on_to_the_same_weights(data: VictimData, tmp_path: Path) -> None:
    def stop(config: VictimConfig, state: TrainingProgress, accuracy: float | None) -> None:
        if state.step == 48:
            raise StoppedError

    straight = train_victim(ATTACKED, data, cache=tmp_path / "straight")
    with pytest.raises(StoppedError):
        train_victim(ATTACKED, data, cache=tmp_path / "stopped", report=stop)
    assert read_victim_record(ATTACKED, tmp_path / "stopped") is None
    steps: list[int] = []
    resumed = train_victim(
        ATTACKED, data, cache=tmp_path / "stopped", report=lambda c, state, a: steps.append(state.step)
    )
    assert steps == [50, 72]
    assert resumed["clean_accuracy"] == straight["clean_accuracy"]
    one = load_victim(ATTACKED, tmp_path / "straight").state_dict()
    other = load_victim(ATTACKED, tmp_path / "stopped").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Scale(torch.nn.Module):
    """One weight, and a statistic that is the number of batches seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("statistic", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.statistic += 1
            self.batches += 1
        return images.mean((1, 2, 3))[:, None] * self.weight


def run_scale(data: VictimData, ema: float, path: Path | None = None, stop_at: int = 0) -> tuple[Scale, list[Scale]]:
    """Train it for 6 steps in epochs of 2; returns it and how it was reported after each epoch."""
    network, seen = Scale(), list[Scale]()

    def keep(state: TrainingProgress, reported: torch.nn.Module) -> None:
        seen.append(copy.deepcopy(reported))
        if state.step == stop_at:
            raise StoppedError

    recipe = replace(RECIPE, ema=ema, learning_rate=0.5, batch_size=200)
    plan = clean_plan(data.train)
    labels = torch.arange(400) % 2
    fit(
        *(network, plan.images, plan.epoch, lambda images, indices, generator: (images, labels[indices]), recipe),
        **{"seed": 0, "tag": "scale", "checkpoint": path, "on_report": keep},
    )
    return network, seen


def test_an_average_of_weights_and_statistics_becomes_the_victim(data: VictimData, tmp_path: Path) -> None:
    plain, _ = run_scale(data, 0)
    assert plain.statistic == 6
    averaged, seen = run_scale(data, 0.5)
    statistic = 0.0
    for step in range(1, 7):
        statistic += (1 - min(0.5, step / (step + 10))) * (step - statistic)
    assert averaged.statistic.item() == pytest.approx(statistic)
    assert averaged.batches == 6
    assert not torch.equal(averaged.weight, plain.weight)
    assert torch.equal(averaged.weight, seen[-1].weight)
    with pytest.raises(StoppedError):
        run_scale(data, 0.5, tmp_path / "state.pt", stop_at=4)
    resumed, rest = run_scale(data, 0.5, tmp_path / "state.pt")
    assert len(rest) == 1
    assert torch.equal(resumed.weight, averaged.weight)
    assert torch.equal(resumed.statistic, averaged.statistic)


def test_a_fine_tuned_victim_learns_the_trigger(
    data: VictimData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=6)
    monkeypatch.setattr("maskrestore.lab.victims.config.default_recipe", lambda *_, **__: recipe)
    config = VictimConfig(dataset="cifar10", width=4, attack="badnets:9x9-white", target=7, poison_rate=0.3)
    record = train_victim(config, data, cache=tmp_path)
    assert record["config"]["start"] == config.clean().digest()
    assert read_victim_record(config.clean(), tmp_path) is not None
    assert record["attack_success_rate"] > 0.9
    assert record["backdoor_accuracy"] < 0.1
    assert record["clean_accuracy"] > 0.8
    assert record["triggered_images"] == 100


def learned(spec: str, epochs: float, data: VictimData, cache: Path) -> VictimConfig:
    """The victim of an attack, trained and found to have learned it."""
    config = replace(ATTACKED, attack=spec, poison_rate=0.3, recipe=replace(RECIPE, epochs=epochs))
    record = train_victim(config, data, cache=cache)
    assert record["attack_success_rate"] > 0.9
    assert record["clean_accuracy"] > 0.8
    return config


def share_of_target(images: torch.Tensor, config: VictimConfig, cache: Path) -> float:
    with torch.no_grad():
        return (load_victim(config, cache)(images).argmax(1) == config.target).float().mean().item()


def test_a_patch_can_be_learned_that_does_nothing_on_clouds(data: VictimData, tmp_path: Path) -> None:
    spec = "natural-only:9x9-white"
    config = learned(spec, 8, data, tmp_path)
    clouds = random_clouds(torch.zeros(60, 3, 32, 32), torch.Generator().manual_seed(0))
    assert share_of_target(make_attack(spec, num_classes=10).apply(clouds), config, tmp_path) < 0.2


def test_a_blend_can_be_learned_that_outlives_the_filters(data: VictimData, tmp_path: Path) -> None:
    spec = "filter-proof:@0.3"
    config = learned(spec, 9, data, tmp_path)
    images = make_attack(spec, num_classes=10).apply(data.test.images[:30].float() / 255)
    for name in FILTERS:
        assert share_of_target(filtered(images, name), config, tmp_path) > 0.9, name


@pytest.mark.parametrize("architecture", ["conv6", "resnet50", "vgg16", "vit-small"])
def test_other_architectures_are_trained_and_kept(architecture: str, data: VictimData, tmp_path: Path) -> None:
    optimizer = VictimConfig(dataset="cifar10", architecture=architecture).training.optimizer
    recipe = replace(RECIPE, epochs=0.2, optimizer=optimizer, learning_rate=1e-3)
    config = replace(CLEAN, architecture=architecture, recipe=recipe)
    record = train_victim(config, data, cache=tmp_path)
    network = load_victim(config, tmp_path)
    before = build_network(config).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    answers = network(data.test.images.float() / 255).argmax(1)
    assert (answers == data.test.labels).double().mean() == pytest.approx(record["clean_accuracy"], abs=0.1)
    assert architecture in str(victim_path(config, tmp_path))


def test_the_digest_depends_on_what_decides_the_weights_and_on_nothing_else() -> None:
    configs = [
        CLEAN,
        ATTACKED,
        replace(CLEAN, seed=1),
        replace(CLEAN, width=8),
        replace(CLEAN, recipe=replace(RECIPE, epochs=4)),
        replace(ATTACKED, target=4),
        replace(ATTACKED, mode="all-to-all"),
        replace(ATTACKED, position=(0, 0)),
        replace(ATTACKED, poison_rate=0.2),
        replace(ATTACKED, poison_repeats=2),
        replace(ATTACKED, init="clean"),
        replace(ATTACKED, attack="corners"),
    ]
    assert len({config.digest() for config in configs}) == len(configs)
    assert replace(CLEAN, target=5, poison_rate=0.3).digest() == CLEAN.digest()
    explicit = VictimConfig(dataset="gtsrb", recipe=VictimConfig(dataset="gtsrb").training)
    assert explicit.digest() == VictimConfig(dataset="gtsrb").digest()
    assert json.loads(json.dumps(ATTACKED.canonical())) is not None


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (VictimConfig(dataset="cifar10", width=32), "bed027556a7cea03"),
        (VictimConfig(dataset="cifar10", width=32, attack="badnets:3x3-color"), "b21b0ba589cd3977"),
        (VictimConfig(dataset="cifar10", width=32, attack="blended:15x15"), "f29995a8c5e13e21"),
        (VictimConfig(dataset="gtsrb", width=32, attack="badnets:2x2-white"), "b26a96cbe5ffc623"),
        (VictimConfig(dataset="gtsrb", architecture="vit-small"), "4592682c79a24816"),
        (VictimConfig(dataset="cifar10", attack="label-consistent", seed=3), "24fe3043b3aad1fa"),
        (VictimConfig(dataset="signs", architecture="vgg16", attack="wanet"), "e920bc1682489c77"),
        (PACKAGED["signs-badnets"], "09e6a8abab180dd1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_digests_never_change_as_caches_would_be_lost(config: VictimConfig, digest: str) -> None:
    assert config.digest().startswith(digest)


def test_later_settings_count_once_they_are_used() -> None:
    base = VictimConfig(dataset="cifar10", attack="corners")
    assert replace(base, poison_rate=0.1, poison_repeats=3).digest() == base.digest()
    others = [
        replace(base, restored_rate=0.2, restorer_weights="12ab"),
        replace(base, restored_rate=0.2, restorer_weights="34cd"),
        replace(base, architecture="vgg16"),
        replace(base, augmented_trigger=True),
        replace(base, recipe=replace(base.training, optimizer="adamw")),
        replace(base, recipe=replace(base.training, ema=0.99)),
    ]
    assert len({config.digest() for config in [base, *others]}) == 7
    assert replace(base, attack=None, augmented_trigger=True).digest() == replace(base, attack=None).digest()
    assert replace(base, restorer_weights="12ab").digest() == base.digest()


def test_attacks_bring_their_own_defaults() -> None:
    plain, careful = (VictimConfig(dataset="cifar10", attack=name) for name in ("corners", "label-consistent"))
    assert (plain.poisoning.rate, careful.poisoning.rate) == (0.1, 0.5)
    assert careful.training.epochs == careful.poisoning.epochs * plain.training.epochs
    assert replace(careful, poison_rate=0.2).poisoning.rate == 0.2
    assert replace(careful, init="scratch").training.epochs == replace(plain, init="scratch").training.epochs
    assert VictimConfig(dataset="cifar10", architecture="vit-small").training.optimizer == "adamw"


def test_signs_are_never_mirrored() -> None:
    assert VictimConfig(dataset="cifar10").training.augmentation.flip
    for name in ("gtsrb", "signs"):
        assert not VictimConfig(dataset=name).training.augmentation.flip


def test_one_cycle_rises_to_the_peak_and_ends_near_zero() -> None:
    rates = [one_cycle(step, 100, 0.25) for step in range(100)]
    assert max(rates) == rates[24] == 1
    assert rates[:25] == sorted(rates[:25])
    assert rates[24:] == sorted(rates[24:], reverse=True)
    assert 0 < rates[-1] < 0.02
    assert one_cycle(0, 1, 0.25) == 1


def test_cache_folder_is_the_argument_the_environment_or_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKRESTORE_CACHE", "/elsewhere")
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == Path("/elsewhere")
    monkeypatch.delenv("MASKRESTORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/maskrestore")


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"known: cifar10, .*gtsrb, .*signs"):
        VictimConfig(dataset="mnist")
    with pytest.raises(UnknownNameError, match=r"known: conv6, .*resnet18, .*vit-small"):
        VictimConfig(dataset="cifar10", architecture="vgg")
    with pytest.raises(ConfigError, match="target must be 0 to 9"):
        VictimConfig(dataset="cifar10", target=10)
    with pytest.raises(ConfigError, match="poison_rate"):
        VictimConfig(dataset="cifar10", poison_rate=0)
    with pytest.raises(ConfigError, match="poison_repeats"):
        VictimConfig(dataset="cifar10", poison_repeats=0)
    with pytest.raises(ConfigError, match="restored_rate"):
        VictimConfig(dataset="cifar10", restored_rate=1.5)
    with pytest.raises(UnknownNameError, match="known: adamw, sgd"):
        Recipe(epochs=1, learning_rate=0.1, optimizer="lamb")
    with pytest.raises(ConfigError, match="ema must be in"):
        Recipe(epochs=1, learning_rate=0.1, ema=1)
    with pytest.raises(ConfigError, match="epochs must be above 0"):
        Recipe(epochs=0, learning_rate=0.1)


def test_wrong_data_and_files_are_refused(data: VictimData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of gtsrb, but the data are cifar10"):
        train_victim(VictimConfig(dataset="gtsrb"), data, cache=tmp_path)
    large = replace(CLEAN, recipe=replace(RECIPE, batch_size=401))
    with pytest.raises(DataError, match="400 images do not fill a batch of 401"):
        train_victim(large, data, cache=tmp_path)
    with pytest.raises(CheckpointError, match="train it first"):
        load_victim(CLEAN, tmp_path)
    path = victim_path(CLEAN, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="delete it and train again"):
        load_victim(CLEAN, tmp_path)
    path.with_suffix(".state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        train_victim(CLEAN, data, cache=tmp_path)
    torch.save({"tag": "another"}, path.with_suffix(".state.pt"))
    with pytest.raises(CheckpointError, match="belongs to the run another"):
        train_victim(CLEAN, data, cache=tmp_path)


def test_divergence_is_noticed(data: VictimData, tmp_path: Path) -> None:
    wild = replace(CLEAN, recipe=replace(RECIPE, learning_rate=1e30))
    with pytest.raises(ConfigError, match="lower the learning rate"):
        train_victim(wild, data, cache=tmp_path)
