import pytest
import torch
import torch.nn.functional as F

from maskrestore.imaging.patches import pool_to_tokens, tokens_to_pixels
from maskrestore.imaging.resize import resize


@pytest.mark.parametrize(("grid", "height", "width"), [(14, 224, 224), (16, 32, 32), (14, 32, 45), (16, 9, 7)])
def test_tokens_to_pixels_is_nearest_neighbour(grid: int, height: int, width: int) -> None:
    tokens = torch.arange(grid * grid, dtype=torch.float32).view(1, grid, grid)
    expected = F.interpolate(tokens.unsqueeze(1), (height, width), mode="nearest-exact")
    ours = tokens_to_pixels(tokens, height, width)
    assert ours.shape == (1, 1, height, width)
    if height % grid == 0 and width % grid == 0:
        assert torch.equal(ours, expected)
    for row in range(height):
        for column in range(width):
            assert ours[0, 0, row, column] == tokens[0, row * grid // height, column * grid // width]


def test_pooling_inverts_spreading() -> None:
    tokens = torch.rand(3, 16, 16)
    assert torch.allclose(pool_to_tokens(tokens_to_pixels(tokens, 64, 32).squeeze(1), 16), tokens, atol=1e-6)


def test_resize_returns_fitting_images_untouched_and_keeps_the_range() -> None:
    images = torch.rand(2, 3, 32, 20)
    assert resize(images, 32, 20) is images
    smaller = resize(images, 8, 8)
    assert smaller.shape == (2, 3, 8, 8)
    assert smaller.min() >= 0
    assert smaller.max() <= 1
