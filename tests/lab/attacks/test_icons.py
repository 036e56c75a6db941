"""The drawn icons."""

from __future__ import annotations

import itertools

import pytest
import torch

from maskrestore.errors import UnknownNameError
from maskrestore.lab.attacks import ICONS, make_attack
from maskrestore.lab.attacks.icons import draw_icon


@pytest.mark.parametrize("name", ICONS)
def test_an_icon_fills_its_square_and_has_corners_to_see_through(name: str) -> None:
    icon = draw_icon(name)
    assert icon.shape == (4, 15, 15)
    assert icon.min() >= 0
    assert icon.max() <= 1
    visible = icon[3] > 0
    assert 60 < visible.sum() < 225
    assert visible.any(0).sum() >= 9
    assert visible.any(1).sum() >= 13
    assert not visible[0, 0]
    assert not visible[-1, -1]
    assert (icon[3] == 1).sum() > 30


@pytest.mark.parametrize("name", ICONS)
def test_an_icon_is_its_own_mirror_image(name: str) -> None:
    icon = draw_icon(name)
    torch.testing.assert_close(icon, icon.flip(2), rtol=0, atol=0.05)


def test_icons_differ_and_lie_on_large_images() -> None:
    drawn = [draw_icon(name) for name in ICONS]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(drawn))
    attack = make_attack("badnets:icon-phone", num_classes=10, image_size=224, position=(100, 50))
    changed = (attack.apply(torch.full((1, 3, 224, 224), 0.5)) != 0.5).any(1)[0]
    rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
    assert rows[0] >= 100
    assert rows[-1] < 115
    assert columns[0] >= 50
    assert columns[-1] < 65


def test_unknown_icons_are_named() -> None:
    with pytest.raises(UnknownNameError, match="known: flower, heart, phone, smile, star"):
        make_attack("badnets:icon-cat", num_classes=10)
