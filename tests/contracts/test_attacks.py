"""One table over all attacks: what every one of them promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import (
    ATTACKS,
    Attack,
    choose_poisoned,
    make_attack,
    perturbed_images,
    poison,
    training_hooks,
)
from maskrestore.lab.data import ImageDataset

PATCHES = [
    *(f"badnets:{side}x{side}-{colour}" for side in (1, 2, 3) for colour in ("white", "color")),
    "badnets:3x3-checkerboard",
    "badnets:2x5-color",
]
OPAQUE = [
    *PATCHES,
    "badnets:icon-flower",
    "badnets:icon-star",
    "blended:15x15",
    "blended:7x9@0.5",
    "clean-breaking",
    "corners",
    "label-consistent",
    "natural-only",
    "natural-only:2x2-white",
    "repeated",
    "repeated:1x1-white@6",
    "tact",
    "tact:2x2-white@5",
    "adap-patch",
    "multi:badnets:2x2-white+corners+blended:15x15",
    "multi:repeated+corners",
]
"""Local triggers that show at each pixel of their mask."""
FAINT = ["low-contrast", "low-contrast:12x16@0.2"]
"""Local triggers that fade out towards their border."""
GLOBAL = [
    *("adap-blend", "blended:full", "blended:full@0.1", "bpp", "filter-proof", "filter-proof:2x3@0.1"),
    *("input-aware", "lira", "low-frequency", "refool", "sig", "sig:clean-label", "wanet"),
]
SPECS = [*OPAQUE, *FAINT, *GLOBAL]
CLEAN_LABEL = ("label-consistent", "sig:clean-label")
SOURCE_SPECIFIC = ("tact", "tact:2x2-white@5")
"""Attacks on images of one class."""
ONE_TARGET = (*CLEAN_LABEL, *SOURCE_SPECIFIC)
"""Attacks without the mode all-to-all."""
LEARNED = ("input-aware", "lira")
"""Attacks with networks, whose sums may be added up in another order in a batch."""
ELSEWHERE = (
    *("adap-patch", "multi:badnets:2x2-white+corners+blended:15x15", "multi:repeated+corners"),
    *("clean-breaking", "natural-only", "natural-only:2x2-white"),
)
"""Attacks whose training also changes places where the tested trigger is not."""
SEEDED = (
    *("adap-blend", "blended", "clean-breaking", "filter-proof", "input-aware", "lira", "low-contrast"),
    *("low-frequency", "multi:repeated", "natural-only", "refool", "repeated", "tact", "wanet"),
)
"""Names of attacks that draw something at random."""
CLASSES = 10
every_attack = pytest.mark.parametrize("spec", SPECS)
every_mode = pytest.mark.parametrize("mode", ["all-to-one", "all-to-all"])


def images(count: int = 4, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def dataset(count: int = 400) -> ImageDataset:
    generator = torch.Generator().manual_seed(2)
    return ImageDataset(
        name="random",
        images=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, CLASSES, (count,), generator=generator),
        class_names=tuple("abcdefghij"),
    )


def red_or_blue(batch: torch.Tensor) -> torch.Tensor:
    """Logits of a classifier that looks at two colours: class 0 for red, 1 for blue."""
    red, _, blue = batch.mean((2, 3)).unbind(1)
    return torch.stack([red, blue, *[0.1 * red] * (CLASSES - 2)], 1)


def test_table_covers_the_registry() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(ATTACKS)


@every_attack
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 32, 32), (3, 40, 33)])
def test_trigger_is_where_the_mask_says_and_nowhere_else(spec: str, channels: int, height: int, width: int) -> None:
    attack = make_attack(spec, num_classes=CLASSES)
    before = images(channels=channels, height=height, width=width)
    copy = before.clone()
    after = attack.apply(before)
    mask = attack.trigger_mask(height, width)
    assert torch.equal(before, copy), "the input was changed"
    assert after.shape == before.shape
    assert after.dtype == torch.float32
    assert after.min() >= 0
    assert after.max() <= 1
    assert mask.shape == (height, width)
    assert mask.dtype == torch.bool
    assert mask.any()
    changed = (after != before).any(1)  # (B, C, H, W) -> (B, H, W)
    assert not (changed & ~mask).any()
    assert mask.float().mean() > 0.8 if spec in GLOBAL else mask.float().mean() < 0.5
    if spec in OPAQUE:
        assert torch.equal(changed, mask.expand_as(changed))
    else:
        assert changed[:, mask].float().mean() > 0.8


@every_attack
def test_same_arguments_same_pixels_whatever_the_batch(spec: str) -> None:
    batch = images(6)
    whole = make_attack(spec, num_classes=CLASSES, seed=3).apply(batch)
    torch.rand(5)  # the global generator must not matter
    again = make_attack(spec, num_classes=CLASSES, seed=3)
    one_by_one = torch.cat([again.apply(image[None]) for image in batch])
    tolerance = 1e-4 if spec in LEARNED else 0
    torch.testing.assert_close(one_by_one, whole, rtol=0, atol=tolerance)
    assert torch.equal(whole, again.apply(batch))


@every_attack
def test_seed_decides_random_pixels_only(spec: str) -> None:
    first, second = (make_attack(spec, num_classes=CLASSES, seed=seed).apply(images()) for seed in (0, 1))
    is_random = "color" in spec or (spec.startswith(SEEDED) and "white" not in spec)
    assert torch.equal(first, second) != is_random


@every_attack
@every_mode
def test_label_rule(spec: str, mode: str) -> None:
    if spec in ONE_TARGET and mode == "all-to-all":
        with pytest.raises(ConfigError, match="all-to-one only"):
            make_attack(spec, num_classes=CLASSES, mode=mode)
        return
    attack: Attack = make_attack(spec, num_classes=CLASSES, target=7, mode=mode)
    labels = torch.arange(CLASSES)
    wanted = attack.poisoned_label(labels)
    assert wanted.dtype == torch.int64
    if spec in SOURCE_SPECIFIC:
        assert attack.eligible(labels).nonzero().tolist() == [[5 if "@" in spec else 8]]
    else:
        assert torch.equal(attack.eligible(labels), wanted != labels)
    if mode == "all-to-one":
        assert wanted.tolist() == [7] * CLASSES
        assert not attack.eligible(torch.tensor([7]))
    else:
        assert sorted(wanted.tolist()) == labels.tolist()
        assert attack.eligible(labels).all()


@every_attack
@every_mode
def test_poison_takes_its_share_of_eligible_images_and_leaves_the_rest(spec: str, mode: str) -> None:
    if spec in ONE_TARGET and mode == "all-to-all":
        pytest.skip("has one target class")
    attack = make_attack(spec, num_classes=CLASSES, target=2, mode=mode)
    clean = dataset()
    rate = 0.05 if spec in SOURCE_SPECIFIC else 0.1  # a tenth of the images is of the source class
    poisoned, chosen = poison(clean, attack, rate, 5, classifier=red_or_blue)
    is_target = clean.labels == 2
    assert (
        len(chosen)
        == len(chosen.unique())
        == (round(rate * int(is_target.sum())) if spec in CLEAN_LABEL else 400 * rate)
    )
    if spec in CLEAN_LABEL:
        assert is_target[chosen].all()
        assert torch.equal(poisoned.labels, clean.labels)
    else:
        assert attack.eligible(clean.labels[chosen]).all()
    assert torch.equal(poisoned.labels[chosen], attack.poisoned_label(clean.labels[chosen]))
    rest = torch.ones(len(clean.labels), dtype=torch.bool)
    rest[chosen] = False
    assert torch.equal(poisoned.images[rest], clean.images[rest])
    assert torch.equal(poisoned.labels[rest], clean.labels[rest])
    carriers = perturbed_images(clean.images[chosen], clean.labels[chosen], attack, red_or_blue)
    triggered = attack.apply(carriers.float() / 255)
    assert (poisoned.images[chosen].float() / 255 - triggered).abs().max() <= 0.5 / 255 + 1e-6
    again, same = poison(clean, attack, rate, 5, classifier=red_or_blue)
    assert torch.equal(again.images, poisoned.images)
    assert torch.equal(same, chosen)
    assert not torch.equal(choose_poisoned(clean.labels, attack, rate, 6), chosen)


@every_attack
def test_what_training_shows_are_images_that_the_generator_decides(spec: str) -> None:
    attack = make_attack(spec, num_classes=CLASSES)
    hooks = training_hooks(attack)
    assert hooks.clean_label == (spec in CLEAN_LABEL)
    assert (hooks.decoy is None) == (hooks.decoy_rate == 0)
    for change in filter(None, (hooks.vary, hooks.decoy)):
        before = images(5)
        after = change(before, torch.Generator().manual_seed(4))
        assert torch.equal(before, images(5)), "the input was changed"
        assert after.shape == before.shape
        assert after.dtype == torch.float32
        assert after.min() >= 0
        assert after.max() <= 1
        assert (after != before).flatten(1).any(1).all()
        assert torch.equal(after, attack.apply(before)) == (spec in SOURCE_SPECIFIC)  # the class makes the difference
        assert torch.equal(after, change(before, torch.Generator().manual_seed(4)))
        outside = ~attack.trigger_mask(32, 32)
        assert torch.equal(after[:, :, outside], before[:, :, outside]) == (spec not in ELSEWHERE)


@settings(max_examples=30, deadline=None)
@given(
    spec=st.sampled_from(PATCHES),
    row=st.integers(-28, 27),
    column=st.integers(-28, 27),
)
def test_a_patch_goes_to_any_position(spec: str, row: int, column: int) -> None:
    attack = make_attack(spec, num_classes=CLASSES, position=(row, column))
    mask = attack.trigger_mask(32, 32)
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    assert (rows[0] if row >= 0 else rows[-1] - 32) == row
    assert (columns[0] if column >= 0 else columns[-1] - 32) == column
    assert mask.sum() == len(rows) * len(columns)
