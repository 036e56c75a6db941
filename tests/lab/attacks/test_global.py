"""Triggers over the whole image, against what their papers say of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.lab.attacks import make_attack, training_hooks
from maskrestore.lab.attacks.bpp import floyd_steinberg

GREY = torch.full((1, 3, 32, 32), 0.5)


def noise(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def gradient() -> Tensor:
    """An image that brightens to the right in red and downwards in green."""
    ramp = torch.linspace(0.1, 0.9, 32)
    return torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.full((32, 32), 0.5)])[None]


def test_sig_is_a_sinusoid_of_six_periods_and_twenty_levels() -> None:
    change = (make_attack("sig", num_classes=10).apply(GREY) - GREY)[0]
    for column in range(32):
        expected = 20 / 255 * math.sin(2 * math.pi * 6 * (column + 1) / 32)
        torch.testing.assert_close(change[:, :, column], torch.full((3, 32), expected), rtol=0, atol=1e-6)


def test_full_blend_is_the_stated_mixture_and_stretches() -> None:
    attack = make_attack("blended:full@0.1", num_classes=10)
    pattern = (attack.apply(GREY) - 0.9 * GREY) / 0.1
    assert 0.45 < pattern.mean() < 0.55
    torch.testing.assert_close(attack.apply(noise()), 0.9 * noise() + 0.1 * pattern)
    large = (attack.apply(torch.full((1, 3, 64, 64), 0.5)) - 0.45) / 0.1
    torch.testing.assert_close(large[:, :, ::2, ::2], pattern)


def test_low_frequencies_stay_within_their_bound_and_are_smooth() -> None:
    change = (make_attack("low-frequency", num_classes=10).apply(GREY) - GREY)[0]
    assert change.abs().max() == pytest.approx(0.08, abs=1e-6)
    for axis in (1, 2):
        assert change.diff(dim=axis).abs().max() < 0.03
    assert (change > 0.02).any()
    assert (change < -0.02).any()


def dithered_slowly(image: Tensor, levels: int) -> Tensor:
    """Floyd and Steinberg's loop, pixel by pixel, for ``(H, W)``."""
    height, width = image.shape
    work, steps = image.double().clone(), levels - 1
    for row in range(height):
        for column in range(width):
            old = work[row, column].item()
            new = round(min(max(old, 0), 1) * steps) / steps
            work[row, column] = new
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if row + down < height and 0 <= column + right < width:
                    work[row + down, column + right] += (old - new) * share / 16
    return work.float()


@pytest.mark.parametrize(("height", "width"), [(6, 9), (9, 5), (1, 4), (4, 1)])
def test_dithering_is_floyd_and_steinbergs(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    found = floyd_steinberg(images, 8)
    expected = torch.stack([torch.stack([dithered_slowly(plane, 8) for plane in image]) for image in images])
    torch.testing.assert_close(found, expected)


def test_bpp_leaves_eight_levels_and_the_mean_colour() -> None:
    after = make_attack("bpp", num_classes=10).apply(gradient())
    torch.testing.assert_close((after * 7).round(), after * 7, rtol=0, atol=1e-5)
    assert len(after.unique()) <= 8
    torch.testing.assert_close(after.mean((2, 3)), gradient().mean((2, 3)), rtol=0, atol=0.01)


def test_bpp_decoys_carry_the_errors_of_another_image() -> None:
    attack = make_attack("bpp", num_classes=10)
    decoy = training_hooks(attack).decoy
    assert decoy is not None
    batch = 0.3 + 0.4 * noise(3)
    errors = attack.apply(batch) - batch
    torch.testing.assert_close(decoy(batch, torch.Generator()) - batch, errors.roll(1, 0))


def test_wanet_moves_pixels_by_up_to_a_quarter_of_a_pixel_on_average_and_keeps_flat_images() -> None:
    attack = make_attack("wanet", num_classes=10, seed=1)
    torch.testing.assert_close(attack.apply(GREY), GREY)
    change = (attack.apply(gradient()) - gradient())[0, :2, 2:-2, 2:-2]
    # red changes by the slope for each pixel that the image moves by to the right, green likewise downwards; the
    # field is in units of 1 / 32 in [-1, 1], so that s = 0.5 is 0.5 / 2 * 31 / 32 pixels
    pixels = change.abs().mean() / (0.8 / 31)
    assert 0.1 < pixels < 0.25
    assert change.abs().max() / (0.8 / 31) < 1.5


def test_wanet_noise_mode_warps_otherwise_each_time() -> None:
    hooks = training_hooks(make_attack("wanet", num_classes=10))
    assert hooks.decoy is not None
    first, second = hooks.decoy(gradient().expand(2, -1, -1, -1), torch.Generator().manual_seed(0))
    assert (first - second).abs().mean() > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        *("wanet", "sig", "bpp", "low-frequency", "input-aware", "label-consistent"),
        *("adap-blend", "adap-patch", "lira", "refool"),
    ],
)
def test_unknown_variants_and_positions_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no position|no variant"):
        make_attack(f"{name}:large", num_classes=10)
    with pytest.raises(ConfigError, match="no position"):
        make_attack(name, num_classes=10, position=(1, 1))


@pytest.mark.parametrize(
    "name",
    [
        *("adap-blend", "blended:full", "bpp", "clean-breaking", "filter-proof", "input-aware", "lira", "refool"),
        *("sig", "wanet"),
    ],
)
def test_images_of_another_rank_are_refused(name: str) -> None:
    with pytest.raises(InvalidImageError, match=r"got \(3, 32, 32\)"):
        make_attack(name, num_classes=10).apply(GREY[0])
