"""What each attack looks like, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrestore.errors import ConfigError, ImageFileError, InvalidImageError, UnknownNameError
from maskrestore.lab.attacks import choose_poisoned, icon_attack, make_attack
from maskrestore.lab.attacks.base import AttackConfig

GREY = torch.full((1, 3, 32, 32), 0.5)


def test_white_patch_lies_one_pixel_from_the_lower_right_corner() -> None:
    triggered = make_attack("badnets:2x2-white", num_classes=10).apply(GREY)[0]
    expected = GREY[0].clone()
    expected[:, 29:31, 29:31] = 1
    assert torch.equal(triggered, expected)


def test_colour_patch_has_many_colours() -> None:
    patch = make_attack("badnets:3x3-color", num_classes=10).apply(GREY)[0, :, 28:31, 28:31].flatten(1)
    assert len(patch.T.unique(dim=0)) == 9


def test_corners_are_checkerboards() -> None:
    triggered = make_attack("corners", num_classes=10).apply(GREY)[0, 0]
    board = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    for rows in (slice(0, 3), slice(29, 32)):
        for columns in (slice(0, 3), slice(29, 32)):
            assert torch.equal(triggered[rows, columns], board)


def test_blended_patch_is_faint_and_in_the_corner() -> None:
    attack = make_attack("blended:15x15", num_classes=10)
    difference = (attack.apply(GREY) - GREY).abs()
    assert difference.max() <= 0.1 + 1e-6  # a fifth of at most half the range
    assert attack.trigger_mask(32, 32)[17:, 17:].all()
    assert attack.trigger_mask(32, 32).sum() == 225


def test_icon_file_keeps_its_transparency(tmp_path: Path) -> None:
    icon = Image.new("RGBA", (3, 2), (255, 0, 0, 255))
    icon.putpixel((0, 0), (0, 255, 0, 0))
    icon.putpixel((1, 0), (0, 0, 255, 102))  # 40 % opaque
    icon.save(tmp_path / "sticker.png")
    attack = make_attack(f"badnets:{tmp_path / 'sticker.png'}", num_classes=10, position=(4, 6))
    triggered = attack.apply(GREY)[0]
    assert triggered[:, 4, 6].tolist() == [0.5, 0.5, 0.5]
    torch.testing.assert_close(triggered[:, 4, 7], torch.tensor([0.3, 0.3, 0.7]))
    assert triggered[:, 5, 8].tolist() == [1.0, 0.0, 0.0]
    assert attack.trigger_mask(32, 32).sum() == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("badnet:3x3-white", "known: adap-blend, adap-patch, badnets, blended"),
        ("badnets:3x3-pink", "known: checkerboard, color, white"),
        ("badnets:3-white", "a size such as 3x3"),
        ("badnets:0x3-white", "a size such as 3x3"),
        ("badnets:40x3-white", "does not lie inside an image of 32x32"),
        ("blended:15x15@2", "number above 0 and at most 1 after the @, got '2'"),
        ("blended:15x15@faint", "number above 0 and at most 1 after the @, got 'faint'"),
        ("corners:3x3", "no variant"),
    ],
)
def test_unknown_specs_say_what_is_expected(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_attack(spec, num_classes=10)


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="target must be 0 to 9, got 10"):
        make_attack("corners", num_classes=10, target=10)
    with pytest.raises(UnknownNameError, match="all-to-all"):
        make_attack("corners", num_classes=10, mode="some-to-one")
    with pytest.raises(ConfigError, match="no position"):
        make_attack("corners", num_classes=10, position=(1, 1))
    with pytest.raises(ConfigError, match="does not lie inside"):
        make_attack("badnets:3x3-white", num_classes=10, position=(30, 0))


def test_broken_icons_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageFileError, match=r"broken\.png cannot be read"):
        make_attack(f"badnets:{tmp_path / 'broken.png'}", num_classes=10)
    with pytest.raises(ConfigError, match="visible RGBA icon"):
        icon_attack("badnets:icon", torch.zeros(4, 3, 3), AttackConfig(num_classes=10))


def test_images_of_another_rank_are_refused() -> None:
    with pytest.raises(InvalidImageError, match=r"got \(3, 32, 32\)"):
        make_attack("corners", num_classes=10).apply(GREY[0])


def test_poison_rate_beyond_the_eligible_images_is_refused() -> None:
    attack = make_attack("corners", num_classes=2, target=0)
    labels = torch.tensor([0, 0, 0, 1])
    with pytest.raises(ConfigError, match="asks for 2 images; only 1 are eligible"):
        choose_poisoned(labels, attack, 0.5, 0)
    with pytest.raises(ConfigError, match=r"in \(0, 1\], got 0"):
        choose_poisoned(labels, attack, 0, 0)
