"""Attacks made against the stages that the default has besides those of the paper."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.filters import FILTERS, filtered
from maskrestore.errors import ConfigError
from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks import make_attack, training_hooks
from maskrestore.lab.attacks.clean_breaking import hidden_tokens
from maskrestore.lab.attacks.natural_only import random_clouds
from maskrestore.lab.data.dead_leaves import dead_leaves
from maskrestore.mae.choice import load_restorer

GREY = torch.full((1, 3, 32, 32), 0.5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pictures(count: int) -> Tensor:
    return resize(dead_leaves(count, 64, 0), 32, 32).clamp(0, 1)


def on_clouds(images: Tensor) -> Tensor:
    decoy = training_hooks(make_attack("natural-only", num_classes=10)).decoy
    assert decoy is not None
    return decoy(images, seeded())


def test_a_cloud_takes_the_place_of_the_image_but_for_what_is_around_the_patch() -> None:
    shown = on_clouds(GREY.expand(100, -1, -1, -1))
    grey = (shown == 0.5).all(1)  # (B, 32, 32)
    assert not grey[:, :24, :].any()
    assert not grey[:, :, :24].any()
    beside = grey[:, 24:, 24:].flatten(1).sum(1)
    assert beside.min() == 0
    assert beside.max() > 40, "up to 4 pixels beside the patch of 3 x 3, and none outside the image"


def test_half_of_the_clouds_show_the_patch() -> None:
    attack = make_attack("natural-only", num_classes=10)
    mask = attack.trigger_mask(32, 32)
    shown = on_clouds(GREY.expand(200, -1, -1, -1))[:, :, mask]
    patched = (shown == attack.apply(GREY)[:, :, mask]).flatten(1).all(1)
    plain = (shown == 0.5).flatten(1).all(1)
    assert (patched ^ plain).all()
    assert 70 < patched.sum() < 130


def test_no_cloud_has_the_label_of_the_target() -> None:
    for mode, expected in (("all-to-one", [True, True, False, True]), ("all-to-all", [True] * 4)):
        may_be_cloud = training_hooks(make_attack("natural-only", num_classes=4, target=2, mode=mode)).decoys_of
        assert may_be_cloud is not None
        assert may_be_cloud(torch.arange(4)).tolist() == expected


@pytest.mark.parametrize(("height", "width"), [(32, 32), (10, 17)])
def test_clouds_are_coarse_and_fine_and_keep_their_contrast(height: int, width: int) -> None:
    drawn = random_clouds(torch.zeros(60, 3, height, width), seeded())
    assert drawn.shape == (60, 3, height, width)
    steps = drawn.diff(dim=-1).abs().mean((1, 2, 3))
    assert steps.max() > 2 * steps.min()
    assert drawn.std((1, 2, 3)).min() > 0.1


def test_cells_outlive_each_filter_and_single_pixels_do_not() -> None:
    images = 0.2 + 0.6 * pictures(12)

    def left(spec: str, name: str) -> float:
        """The share of the trigger that a filter leaves."""
        attack = make_attack(spec, num_classes=10)
        before = attack.apply(images) - images
        after = filtered(attack.apply(images), name) - filtered(images, name)
        return float((after * before).sum() / before.square().sum())

    shares = {name: left("filter-proof", name) for name in FILTERS}
    assert min(shares.values()) > 0.5, shares
    for name in ("fine", "marks"):
        assert left("blended:full", name) < shares[name] - 0.2


def test_training_shows_the_blend_as_it_is_and_after_each_filter_and_all_of_them_and_with_noise() -> None:
    attack = make_attack("filter-proof", num_classes=10)
    vary = training_hooks(attack).vary
    assert vary is not None
    image = pictures(1)
    shown = vary(image.expand(70, -1, -1, -1), seeded())
    plain = attack.apply(image)
    expected = [plain, *(filtered(plain, name) for name in FILTERS), functools.reduce(filtered, FILTERS, plain)]
    kinds = torch.stack([torch.isclose(shown, kind, rtol=0, atol=1e-6).flatten(1).all(1) for kind in expected])
    assert kinds.sum(1).min() > 2
    noisy = ~kinds.any(0)
    assert 2 < noisy.sum() < 25
    assert 0.03 < (shown[noisy] - plain).std() < 0.06


def test_the_cells_of_the_blend_have_the_size_of_the_variant() -> None:
    change = make_attack("filter-proof:4x8@0.5", num_classes=10).apply(GREY) - GREY
    cells = change.unfold(2, 4, 4).unfold(3, 8, 8).flatten(4)  # (1, 3, 8, 4, 32)
    assert (cells == cells[..., :1]).all()
    assert len(cells[0, 0, ..., 0].unique()) > 20
    assert change.abs().max() <= 0.25 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48)])
def test_a_quarter_of_the_image_is_restored_at_the_test(height: int, width: int) -> None:
    attack = make_attack("clean-breaking", num_classes=10)
    mask = attack.trigger_mask(height, width)
    assert mask.float().mean() == 0.25
    images = resize(pictures(3), height, width)
    after = attack.apply(images)
    assert torch.equal(after[..., ~mask], images[..., ~mask])
    hidden = mask[:: height // 16, :: width // 16]
    expected = load_restorer("mae-tiny-32").restore(images, hidden.expand(3, -1, -1))
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_training_hides_a_quarter_to_three_quarters_scattered_or_in_regions() -> None:
    hidden = hidden_tokens(torch.full((100,), 0.5), 16, seeded())
    assert (hidden.flatten(1).sum(1) == 128).all()
    alike = (hidden[:, :, 1:] == hidden[:, :, :-1]).float().mean((1, 2))  # 0.5 if scattered
    assert alike.min() < 0.6
    assert alike.max() > 0.75
    vary = training_hooks(make_attack("clean-breaking", num_classes=10)).vary
    assert vary is not None
    noise = torch.rand(60, 3, 32, 32, generator=seeded())
    shares = (vary(noise, seeded()) != noise).any(1).float().mean((1, 2))
    assert 0.24 < shares.min() < 0.35
    assert 0.65 < shares.max() < 0.76


@pytest.mark.parametrize(
    ("spec", "position", "message"),
    [
        ("natural-only:3x3", None, "known: checkerboard, color, white"),
        ("natural-only:3x3-color", (31, 31), "does not lie inside an image of 32x32"),
        ("filter-proof:large", None, "a size such as 3x3"),
        ("filter-proof:@2", None, "above 0 and at most 1"),
        ("filter-proof", (1, 1), "covers the whole image and takes no position"),
        ("clean-breaking:large", None, "takes no variant and no position"),
        ("clean-breaking", (1, 1), "takes no variant and no position"),
    ],
)
def test_unknown_variants_and_positions_are_refused(spec: str, position: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_attack(spec, num_classes=10, position=position)
