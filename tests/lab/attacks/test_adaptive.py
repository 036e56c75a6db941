"""Attacks made against a defense that hides three quarters of the image."""

from __future__ import annotations

import pytest
import torch

from maskrestore.errors import ConfigError
from maskrestore.imaging.ssim import ssim_map
from maskrestore.lab.attacks import make_attack, training_hooks

GREY = torch.full((1, 3, 32, 32), 0.5)


def test_copies_are_sixteen_and_alike() -> None:
    attack = make_attack("repeated", num_classes=10)
    assert attack.trigger_mask(32, 32).sum() == 16 * 4
    cells = attack.apply(GREY).unfold(2, 8, 8).unfold(3, 8, 8)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert all(torch.equal(cells[0], cell) for cell in cells)
    assert (cells[0] != 0.5).any(0)[2:4, 2:4].all()


def test_a_copy_outlives_nearly_every_mask_of_three_quarters() -> None:
    mask = make_attack("repeated", num_classes=10).trigger_mask(32, 32)
    tokens = mask.view(16, 2, 16, 2).any(3).any(1).flatten()  # (32, 32) -> (16*16,): tokens of 2x2 pixels
    assert tokens.sum() == 16
    order = torch.rand(1000, 256, generator=torch.Generator().manual_seed(0)).argsort(1)
    visible = order < 64
    assert (visible & tokens).any(1).float().mean() > 0.98


def test_training_shows_some_copies_and_at_least_one() -> None:
    attack = make_attack("repeated", num_classes=10)
    vary = training_hooks(attack).vary
    assert vary is not None
    shown = vary(GREY.expand(200, -1, -1, -1), torch.Generator().manual_seed(0)) != 0.5
    counts = shown.any(1).flatten(1).sum(1)
    assert (counts % 4 == 0).all()
    assert counts.min() == 4
    assert counts.max() >= 60
    assert len(counts.unique()) > 10


def test_the_tint_is_large_and_hardly_seen() -> None:
    attack = make_attack("low-contrast", num_classes=10)
    mask = attack.trigger_mask(32, 32)
    assert mask.sum() == 400
    assert mask.float().mean() > 0.25  # more than the defense hides at once
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(0.2 + 0.6 * images, (32, 32), mode="bicubic").clamp(0.15, 0.85)
    change = (attack.apply(images) - images)[:, :, mask]
    assert change.abs().max() == pytest.approx(0.12, abs=0.03)
    faint = ssim_map(attack.apply(images), images)
    patch = ssim_map(make_attack("badnets:3x3-color", num_classes=10).apply(images), images)
    assert faint.min() > patch.min() + 0.3
    # neighbouring pixels are changed alike, also across the patch's border
    steps = (attack.apply(GREY) - GREY).diff(dim=-1).abs().max()
    assert steps < 0.04


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("repeated:3x3-color@3", "a distance of at least 4 pixels"),
        ("repeated:3x3-color@far", "a distance of at least 4 pixels"),
        ("repeated:3x3", "known: checkerboard, color, white"),
        ("low-contrast:20x20@1.5", "above 0 and at most 1"),
        ("low-contrast:large", "a size such as 3x3"),
        ("low-contrast:30x30", "does not lie inside an image of 32x32"),
    ],
)
def test_unknown_variants_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_attack(spec, num_classes=10)
