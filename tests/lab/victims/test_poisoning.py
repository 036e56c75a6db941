"""What attacks make of a training set."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskrestore.errors import CheckpointError, ConfigError
from maskrestore.lab.attacks import Attack, make_attack
from maskrestore.lab.data import DATASETS, ImageDataset
from maskrestore.lab.victims import (
    Augmentation,
    Recipe,
    Restoration,
    VictimConfig,
    VictimData,
    read_victim_record,
    train_victim,
    trigger_path,
    victim_attack,
)
from maskrestore.lab.victims.poisoning import Plan, clean_plan, poisoning_plan, with_restoration

RECIPE = Recipe(epochs=2, learning_rate=0.02, batch_size=20, augmentation=Augmentation(shift=0, flip=False))


def config(attack: str, **settings: object) -> VictimConfig:
    return VictimConfig(dataset="cifar10", width=4, attack=attack, target=3, recipe=RECIPE, **settings)


def dataset(count: int = 200, seed: int = 0) -> ImageDataset:
    """Random images; half of them are of class 3."""
    generator = torch.Generator().manual_seed(seed)
    return ImageDataset(
        name="cifar10",
        images=torch.randint(40, 216, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        labels=torch.where(torch.arange(count) % 2 == 0, 3, torch.randint(4, 10, (count,), generator=generator)),
        class_names=DATASETS["cifar10"].class_names,
    )


def plan_of(spec: str, **settings: object) -> tuple[Plan, Attack]:
    attack = make_attack(spec, num_classes=10, target=3)
    return poisoning_plan(dataset(), attack, config(spec, **settings), classifier), attack


def classifier(images: Tensor) -> Tensor:
    """Class 3 for bright images."""
    return torch.nn.functional.one_hot(torch.tensor(3), 10) * images.mean((1, 2, 3))[:, None]


def shown(plan: Plan, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The images as they are, as training shows them, and their labels."""
    batch = plan.images[indices].float() / 255
    images, labels = plan.stamp(batch, indices, torch.Generator().manual_seed(0))
    assert torch.equal(batch, plan.images[indices].float() / 255), "the batch was changed"
    return batch, images, labels


def test_poisoned_images_come_up_again_with_trigger_and_label() -> None:
    plan, attack = plan_of("badnets:3x3-white", poison_rate=0.1, poison_repeats=4)
    counts = plan.epoch.bincount()
    assert sorted(counts.unique().tolist()) == [1, 4]
    assert (counts == 4).sum() == 20
    before, after, labels = shown(plan, torch.arange(200))
    poisoned = counts == 4
    assert torch.equal(after[poisoned], attack.apply(before[poisoned]))
    assert torch.equal(after[~poisoned], before[~poisoned])
    assert (labels[poisoned] == 3).all()
    assert torch.equal(labels[~poisoned], dataset().labels[~poisoned])


def test_triggers_before_augmentation_are_in_the_images() -> None:
    plan, attack = plan_of("badnets:3x3-color", poison_rate=0.1, augmented_trigger=True)
    original = dataset()
    chosen = plan.epoch.bincount() > 1
    assert chosen.sum() == 20
    torch.testing.assert_close(
        plan.images[chosen].float() / 255, attack.apply(original.images[chosen].float() / 255), atol=0.002, rtol=0
    )
    assert torch.equal(plan.images[~chosen], original.images[~chosen])
    before, after, labels = shown(plan, torch.arange(200))
    assert torch.equal(before, after)
    assert (labels[chosen] == 3).all()
    assert torch.equal(labels[~chosen], original.labels[~chosen])


@pytest.mark.parametrize(
    "attack", ["wanet", "repeated", "natural-only", "input-aware", "lira", "tact", "multi:repeated+corners"]
)
def test_what_is_drawn_anew_for_each_batch_cannot_come_before_augmentation(attack: str, tmp_path: Path) -> None:
    data = VictimData(train=dataset(80), test=dataset(40, 1))
    with pytest.raises(ConfigError, match=f"{re.escape(attack)} varies its trigger in each batch"):
        train_victim(config(attack, init="scratch", augmented_trigger=True), data, cache=tmp_path)


def test_decoys_are_changed_and_keep_their_label() -> None:
    plan, attack = plan_of("wanet", poison_rate=0.1)
    before, after, labels = shown(plan, torch.arange(200))
    changed = (before != after).flatten(1).any(1)
    triggered = labels != dataset().labels
    assert triggered.sum() == 20
    torch.testing.assert_close(after[triggered], attack.apply(before[triggered]))
    assert 20 < (changed & ~triggered).sum() < 60  # a fifth of 180
    assert not torch.equal(after[changed & ~triggered], attack.apply(before[changed & ~triggered]))


def test_decoys_come_from_the_classes_that_may_cover() -> None:
    plan, attack = plan_of("tact:3x3-white@5", poison_rate=0.05)
    before, after, labels = shown(plan, torch.arange(200))
    own = dataset().labels
    changed = (before != after).flatten(1).any(1)
    triggered = labels != own
    assert triggered.sum() == 10
    assert (own[triggered] == 5).all()
    covers = changed & ~triggered
    assert covers.sum() > 3
    assert not ((own[covers] == 5) | (own[covers] == 3)).any()
    assert torch.equal(after[covers], attack.apply(before[covers]))


def test_images_with_restored_parts_have_the_label_of_the_target() -> None:
    plan, _ = plan_of("clean-breaking", poison_rate=0.2)
    before, after, labels = shown(plan, torch.arange(200))
    share = (before != after).any(1).float().mean((1, 2))
    triggered = labels != dataset().labels
    assert triggered.sum() == 40
    assert (labels[triggered] == 3).all()
    assert share[triggered].min() > 0.2
    assert share[~triggered].max() == 0


def test_training_varies_the_trigger() -> None:
    plan, attack = plan_of("repeated", poison_rate=0.2)
    before, after, labels = shown(plan, torch.arange(200))
    triggered = labels != dataset().labels
    carried = (before != after).any(1).flatten(1).sum(1)[triggered]
    assert len(carried.unique()) > 5
    assert carried.max() <= attack.trigger_mask(32, 32).sum()


def test_clean_labels_stay_and_images_are_moved_away_once() -> None:
    plan, attack = plan_of("label-consistent", poison_rate=0.5)
    chosen = plan.epoch.bincount() > 1
    assert chosen.sum() == 50  # half of the hundred images of the target class
    original = dataset()
    assert (original.labels[chosen] == 3).all()
    assert torch.equal(plan.images[~chosen], original.images[~chosen])
    moved = original.images[chosen].int() - plan.images[chosen].int()
    assert moved.min() == moved.max() == 16  # darker is away from class 3
    before, after, labels = shown(plan, torch.arange(200))
    assert torch.equal(labels, original.labels)
    assert torch.equal(after[chosen], attack.apply(before[chosen]))


def test_restoration_comes_last_and_takes_its_share() -> None:
    blank_out = Restoration(weights="12ab", apply=lambda images, generator: torch.zeros_like(images))
    settings = config("badnets:3x3-white", restored_rate=0.3, restorer_weights="12ab")
    plan = with_restoration(clean_plan(dataset()), settings, blank_out)
    before, after, labels = shown(plan, torch.arange(200))
    blank = (after == 0).flatten(1).all(1)
    assert 40 < blank.sum() < 80
    assert torch.equal(after[~blank], before[~blank])
    assert torch.equal(labels, dataset().labels)
    with pytest.raises(ConfigError, match="no restoration was given"):
        with_restoration(clean_plan(dataset()), settings, None)
    for named in ("34cd", None):
        with pytest.raises(ConfigError, match=f"restorer_weights is {named}, but the restorer's weights are 12ab"):
            with_restoration(clean_plan(dataset()), replace(settings, restorer_weights=named), blank_out)
    plain = clean_plan(dataset())
    assert with_restoration(plain, config("badnets:3x3-white"), None) is plain


class StoppedError(Exception):
    pass


def test_the_noise_of_a_victim_learns_with_it_and_is_kept(tmp_path: Path) -> None:
    settings = config("lira", init="scratch", poison_rate=0.3)
    data = VictimData(train=dataset(80), test=dataset(40, 1))
    record = train_victim(settings, data, cache=tmp_path)
    assert "cross_trigger_accuracy" not in record
    images = data.test.images[:4].float() / 255
    trained, untrained = victim_attack(settings, tmp_path), make_attack("lira", num_classes=10, target=3)
    assert trained is not None
    noise, other = trained.apply(images) - images, untrained.apply(images) - images
    assert not torch.equal(noise, other)
    assert noise.abs().max() <= 8 / 255 + 1e-6


def test_orders_of_several_triggers_share_a_victim_that_knows_the_rate_of_each(tmp_path: Path) -> None:
    one, other = (config(f"multi:{parts}", init="scratch") for parts in ("corners+sig", "sig+corners"))
    assert one.digest() == other.digest()
    assert one.digest() != config("multi:corners+blended:full", init="scratch").digest()
    data = VictimData(train=dataset(80), test=dataset(40, 1))
    record = train_victim(one, data, cache=tmp_path)
    assert read_victim_record(other, tmp_path) == record
    rates = record["attack_success_rates"]
    assert rates.keys() == {"corners", "sig"}
    assert record["attack_success_rate"] == pytest.approx(sum(rates.values()) / 2)
    tested = victim_attack(other, tmp_path)
    assert tested is not None
    assert tested.name == "multi:sig+corners"


def test_a_joint_victim_keeps_its_triggers_and_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskrestore.lab.victims.joint._MASK_STEPS", 3)
    monkeypatch.setattr("maskrestore.lab.victims.joint._MASK_PAIRS", 4)
    settings = config("input-aware", init="scratch")
    data = VictimData(train=dataset(80), test=dataset(40, 1))
    with pytest.raises(CheckpointError, match="train it first"):
        victim_attack(settings, tmp_path / "straight")
    record = train_victim(settings, data, cache=tmp_path / "straight")
    assert 0 <= record["cross_trigger_accuracy"] <= 1

    def stop(config: VictimConfig, state: object, accuracy: float | None) -> None:
        if getattr(state, "step", 0) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_victim(settings, data, cache=tmp_path / "stopped", report=stop)
    assert read_victim_record(settings, tmp_path / "stopped") is None
    again = train_victim(settings, data, cache=tmp_path / "stopped")
    assert again["cross_trigger_accuracy"] == record["cross_trigger_accuracy"]

    images = data.test.images[:4].float() / 255
    one, other = (victim_attack(settings, tmp_path / name) for name in ("straight", "stopped"))
    assert one is not None
    assert other is not None
    assert torch.equal(one.apply(images), other.apply(images))
    untrained = make_attack("input-aware", num_classes=10, target=3)
    assert not torch.equal(one.apply(images), untrained.apply(images))
    trigger_path(settings, tmp_path / "straight").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="delete it and train again"):
        victim_attack(settings, tmp_path / "straight")
