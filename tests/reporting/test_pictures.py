"""Score maps, masks and differences as pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskrestore.errors import InvalidImageError
from maskrestore.reporting.pictures import MAX_SIDE, colourise, difference, mark_hidden, thumbnail


def luminance(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def test_the_colour_scale_agrees_with_viridis():
    colormaps = pytest.importorskip("matplotlib").colormaps
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    expected = np.asarray(colormaps["viridis"].colors)[None] * 255
    assert np.abs(colourise(values) - expected).max() < 6


def test_a_higher_score_is_brighter_and_the_ends_are_clipped():
    ramp = colourise(np.linspace(0, 1, 100, dtype=np.float32)[None])
    assert ramp.dtype == np.uint8
    assert (np.diff(luminance(ramp)[0]) >= -0.5).all()
    outside = colourise(np.array([[-3.0, 0.0, 1.0, 9.0, np.nan, np.inf]], np.float32))[0]
    assert np.array_equal(outside[[0, 4]], outside[[1, 1]])
    assert np.array_equal(outside[[3, 5]], outside[[2, 2]])


def test_a_small_image_is_shown_pixel_for_pixel():
    image = torch.arange(3 * 4 * 5).view(3, 4, 5) / 255
    assert np.array_equal(thumbnail(image), np.arange(60).reshape(3, 4, 5).transpose(1, 2, 0))
    grey = thumbnail(image[:1])
    assert grey.shape == (4, 5, 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 448, 448), (224, 224)), ((1, 1000, 10), (224, 2)), ((3, 2000, 1), (224, 1))]
)
def test_a_large_image_is_reduced_in_proportion(shape, expected):
    small = thumbnail(torch.full(shape, 0.5))
    assert small.shape == (*expected, 3)
    assert max(small.shape) == MAX_SIDE
    assert set(np.unique(small)) == {128}


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (1, 3, 8, 8), (3, 0, 8)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(InvalidImageError, match="1 or 3, height, width"):
        thumbnail(torch.zeros(shape))


@pytest.mark.parametrize("size", [(8, 8), (30, 20), (7, 9)])
def test_exactly_the_hidden_tokens_are_amber(size):
    hidden = np.zeros((4, 4), bool)
    hidden[1, 2] = hidden[3, 0] = True
    marked = mark_hidden(np.full((*size, 3), 100, np.uint8), hidden)
    amber = marked[..., 0].astype(int) - marked[..., 2] > 50
    rows, columns = (np.floor((np.arange(side) + 0.5) * 4 / side).astype(int) for side in size)
    assert np.array_equal(amber, hidden[rows][:, columns])


def test_a_difference_is_black_where_nothing_changed_and_symmetric():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    second[0] = first[0]
    change = difference(first, second)
    assert not change[0].any()
    assert np.array_equal(change, difference(second, first))
    assert change.max() == 255
