from collections import Counter

import pytest
import torch

from maskrestore.errors import ConfigError
from maskrestore.lab.baselines import BASELINES
from maskrestore.lab.baselines.shrinkpad import ShrinkPadConfig, shrink_pad


def place(image: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is not black in ``(C, H, W)``."""
    rows, columns = image.amax(0).amax(1).nonzero(), image.amax(0).amax(0).nonzero()
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


def test_half_of_four_pixels_as_computed_by_hand() -> None:
    row = torch.tensor([0.1, 0.3, 0.9, 0.5])
    (result,) = shrink_pad(row.repeat(4, 1)[None, None], 0.5, 0)
    top, left, height, width = place(result)
    assert (height, width) == (2, 2)
    # Antialiased bilinear halving weighs 3 : 3 : 1 from the border.
    first, second = (3 * 0.1 + 3 * 0.3 + 0.9) / 7, (0.3 + 3 * 0.9 + 3 * 0.5) / 7
    small = result[0, top : top + 2, left : left + 2]
    assert torch.allclose(small, torch.tensor([[first, second], [first, second]]))
    assert result.sum() == small.sum()


@pytest.mark.parametrize(("name", "side", "padding"), [("weak", 32, 4), ("strong", 32, 8), ("weak", 224, 28)])
def test_padding_is_the_papers(name: str, side: int, padding: int) -> None:
    white = torch.ones(1, 3, side, side)
    result = BASELINES[f"shrinkpad-{name}"].build().purify(white, lambda images: torch.zeros(len(images)).long())
    top, left, height, width = place(result.images[0])
    assert (height, width) == (side - padding, side - padding)
    assert 0 <= top <= padding
    assert 0 <= left <= padding
    assert set(result.images.unique().tolist()) == {0.0, 1.0}


def test_every_place_is_as_likely() -> None:
    images = 0.5 + torch.rand(1800, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    places = Counter(place(image)[:2] for image in shrink_pad(images, 0.5, "key"))
    assert len(places) == 9
    assert min(places.values()) > 150  # 200 expected, standard deviation 13
    other = Counter(place(image)[:2] for image in shrink_pad(images, 0.5, "another key"))
    assert other != places


def test_images_that_are_not_square_keep_their_proportions() -> None:
    assert place(shrink_pad(torch.ones(1, 1, 16, 40), 1 / 4, 0)[0])[2:] == (12, 30)


def test_one_pixel_is_left_at_least() -> None:
    assert place(shrink_pad(torch.ones(1, 1, 1, 8), 0.9, 0)[0])[2:] == (1, 1)


@pytest.mark.parametrize("padding", [0.0, 1.0, -0.1])
def test_settings_are_checked(padding: float) -> None:
    with pytest.raises(ConfigError, match="padding"):
        ShrinkPadConfig(padding=padding)
