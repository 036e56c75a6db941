import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrestore.errors import InvalidImageError
from maskrestore.imaging.inputs import as_batch


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9)),
    last=st.booleans(),
    dtype=st.sampled_from(["uint8", "float16", "float32", "float64", ">f4"]),
)
def test_every_numpy_layout_and_dtype_gives_the_same_batch(shape: tuple[int, ...], last: bool, dtype: str) -> None:
    truth = levels(*shape)
    array = truth if dtype == "uint8" else (truth / 255).astype(dtype)
    result = as_batch(np.moveaxis(array, 1, -1) if last else array)
    assert result.shape == shape
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    torch.testing.assert_close(result, torch.from_numpy(truth) / 255, rtol=0, atol=1e-3 if dtype == "float16" else 1e-7)
    one = np.moveaxis(array[0], 0, -1) if last else array[0]
    assert torch.equal(as_batch(one), result[:1])
    assert torch.equal(as_batch([*array]), result)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7)])
def test_tensors_of_each_rank(shape: tuple[int, ...]) -> None:
    pixels = torch.from_numpy(levels(*shape))
    expected = (pixels / 255).reshape((-1, 1 if len(shape) == 2 else shape[-3], 5, 7))
    assert torch.equal(as_batch(pixels), expected)
    assert torch.equal(as_batch(pixels / 255), expected)
    assert torch.equal(as_batch((pixels / 255).requires_grad_()), expected)


def test_a_valid_float32_batch_is_not_copied_and_never_changed() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert as_batch(images).data_ptr() == images.data_ptr()


def test_views_and_read_only_arrays_are_accepted() -> None:
    array = levels(6, 8, 3)
    array.setflags(write=False)
    assert torch.equal(
        as_batch(array[::-1, ::2]), torch.from_numpy(array[::-1, ::2].copy()).permute(2, 0, 1)[None] / 255
    )


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_pillow_modes(mode: str, channels: int) -> None:
    image = Image.fromarray(levels(5, 7, 3)).convert(mode)
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    result = as_batch(image)
    assert result.shape == (1, channels, 5, 7)
    assert torch.equal(result, as_batch(expected))  # opaque: the alpha of LA and RGBA has no effect


def test_transparency_is_laid_over_white() -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    red, _, blue = as_batch(Image.fromarray(pixels))[0] * 255
    assert red[0].round().tolist() == [10, 255, 127]
    assert blue[0].round().tolist() == [30, 255, 127]
    grey = Image.new("L", (1, 1), 7)
    grey.putalpha(0)
    assert as_batch(grey).tolist() == [[[[1.0]]]]


def test_16_bit_grey_keeps_its_precision() -> None:
    pixels = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    expected = torch.tensor([[[[0, 1 / 65535, 1 / 255, 1]]]])
    torch.testing.assert_close(as_batch(Image.fromarray(pixels)), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(as_batch(Image.fromarray(pixels.astype(np.int32))), expected, rtol=1e-6, atol=0)
    with pytest.raises(InvalidImageError, match=r"0\.\.65535, got 0 to 65536"):
        as_batch(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((3, 4, 4), 255.0), r"\[0, 1\], got values from 255 to 255; pass uint8, or divide by 255"),
        (torch.full((3, 4, 4), 1.01), r"got values up to 1\.00.*images.clamp\(0, 1\)"),
        (torch.full((3, 4, 4), 1.2), "divide by 255"),
        (torch.full((3, 4, 4), -0.5), "from -0.5 to -0.5; normalisation"),
        (torch.tensor([[0.5, float("nan")], [float("nan"), 0.1]]), "NaN or infinity in 2 values"),
        (torch.tensor([[0.5, float("inf")]]), "NaN or infinity in 1 values"),
        (torch.zeros(4), r"got 1 axes: shape \(4,\)"),
        (torch.zeros(1, 1, 3, 4, 4), "got 5 axes"),
        (torch.zeros(0, 3, 4, 4), r"at least one image.*\(0, 3, 4, 4\)"),
        (torch.zeros(2, 3, 0, 4), "at least one pixel"),
        ([], "empty list"),
        (torch.zeros(4, 6, 6), "alpha"),
        (torch.zeros(6, 6, 3), r"got shape \(6, 6, 3\); the channels seem to be last"),
        (torch.zeros(2, 6, 6, 3), "permute"),
        (torch.zeros(8, 6, 6), r"images\[:, None\]"),
        (torch.zeros(2, 2, 6, 6), r"C = 1 or 3, got shape \(2, 2, 6, 6\)"),
        (np.zeros((6, 6, 4), np.uint8), "alpha"),
        (np.zeros((3, 6, 3), np.uint8), "ambiguous: the channels could be"),
        (torch.full((3, 4, 4), 9), "got torch.int64 with values from 9 to 9; convert it to uint8 if white is 255"),
        (torch.full((3, 4, 4), 999), "from 999 to 999; divide it by 65535, or by the level of white if that is less"),
        (torch.full((3, 4, 4), -9), "from -9 to -9; shift and divide"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "got torch.bool; convert it to float"),
        (np.zeros((3, 4, 4), np.uint16), "got uint16 with values from 0 to 0; divide it by 65535"),
        (np.full((4, 4), 2**20, np.uint32), "got uint32 with values from 1048576 to 1048576; divide it by the level"),
        (np.zeros((4, 4), complex), "got complex128, which are no pixels"),
        (np.array([["a"]]), "got <U1"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], r"one shape, got \(3, 4, 4\), \(3, 4, 5\)"),
        ([[0.1, 0.2]], "got list"),
        ("cat.png", "got str"),
        (None, "got NoneType"),
        (Image.new("F", (4, 4)), "Pillow mode F"),
        (Image.new("RGB", (0, 4)), "at least one pixel"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_reason(images: object, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        as_batch(images)
