"""Attacks that need a classifier or networks of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import InputAwareAttack, make_attack, poison
from maskrestore.lab.attacks.input_aware import DENSITY, diversity_loss, mask_loss
from maskrestore.lab.attacks.label_consistent import move_away
from maskrestore.lab.data import ImageDataset


def linear(images: Tensor) -> Tensor:
    """Class 0 for bright images."""
    brightness = images.mean((1, 2, 3))
    return torch.stack([brightness, -brightness], 1)


def test_moving_away_follows_the_gradient_to_the_bound() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1])
    moved = move_away(images, labels, linear, bound=0.05, step=0.02, steps=5)
    # darker is away from class 0, brighter from class 1, at each pixel and as far as bound and range allow
    direction = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(moved, (images + 0.05 * direction).clamp(0, 1))
    assert not moved.requires_grad


def test_label_consistent_needs_a_classifier_and_has_the_corners() -> None:
    attack = make_attack("label-consistent", num_classes=2, target=1)
    images = torch.full((1, 3, 32, 32), 0.5)
    assert torch.equal(attack.apply(images), make_attack("corners", num_classes=2).apply(images))
    dataset = ImageDataset(
        name="grey",
        images=torch.full((4, 3, 32, 32), 128, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 1, 0]),
        class_names=("a", "b"),
    )
    with pytest.raises(ConfigError, match="against a clean classifier"):
        poison(dataset, attack, 0.5, 0)
    poisoned, chosen = poison(dataset, attack, 0.5, 0, classifier=linear)
    assert len(chosen) == 1
    assert (poisoned.images[chosen][:, :, 10, 10] == 144).all()  # away from class 1: brighter by 16 levels


@pytest.fixture(scope="module")
def trained_a_little() -> tuple[InputAwareAttack, Tensor]:
    """The mask network after some steps, and the images that it saw."""
    attack = make_attack("input-aware", num_classes=10)
    assert isinstance(attack, InputAwareAttack)
    images = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear")
    optimizer = torch.optim.Adam(attack.networks["mask"].parameters(), lr=0.003, betas=(0.5, 0.9))
    attack.networks.train()
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.003 * (1 - step / 60)  # comes to rest, whatever the rounding
        masks = attack.mask(images)
        loss = mask_loss((images, images.roll(1, 0)), (masks, masks.roll(1, 0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(100):  # running statistics lag behind the weights
            attack.mask(images)
    attack.networks.eval()
    return attack, images


def test_masks_become_sparse_and_differ(trained_a_little: tuple[InputAwareAttack, Tensor]) -> None:
    attack, images = trained_a_little
    with torch.no_grad():
        masks = attack.mask(images)
    assert DENSITY / 2 < masks.mean() < 0.15
    differences = (masks - masks.roll(1, 0)).abs().flatten(1).max(1).values
    assert (differences > 0.2).sum() >= 10  # of 16 pairs


def test_crossed_triggers_are_those_of_the_other_image(trained_a_little: tuple[InputAwareAttack, Tensor]) -> None:
    attack, images = trained_a_little
    others = images.flip(0)
    crossed = attack.cross(images, others)
    with torch.no_grad():
        patterns, masks = attack.trigger(others)
    torch.testing.assert_close(crossed, (images + (patterns - images) * masks).clamp(0, 1))
    torch.testing.assert_close(attack.cross(images, images), attack.apply(images))
    assert not torch.equal(crossed, attack.apply(images))


def test_diversity_is_the_ratio_of_distances() -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    found = diversity_loss((zeros, zeros + 0.6), (zeros, zeros + 0.3))
    assert found.item() == pytest.approx(2, abs=1e-4)


def test_losses_have_finite_gradients_when_nothing_differs() -> None:
    masks = torch.zeros(2, 1, 4, 4, requires_grad=True)
    images = torch.ones(2, 3, 4, 4)
    mask_loss((images, images), (masks, masks.clone())).backward()
    assert masks.grad is not None
    assert torch.isfinite(masks.grad).all()
