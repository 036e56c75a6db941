import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from maskrestore.imaging.ssim import ssim_map


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (12, 12)])
def test_equals_scikit_image(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 3, *size, generator=generator)
    second = (first + 0.2 * torch.randn(2, 3, *size, generator=generator)).clamp(0, 1)
    ours = ssim_map(first, second)
    for index in range(2):
        _, reference = structural_similarity(
            first[index].double().numpy(),
            second[index].double().numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        np.testing.assert_allclose(ours[index].numpy(), reference.mean(axis=0), atol=2e-5)


def test_equal_images_score_one_and_differences_are_local() -> None:
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(ssim_map(image, image), torch.ones(1, 64, 64))
    other = image.clone()
    other[..., 10:14, 10:14] = 1 - other[..., 10:14, 10:14]
    similarity = ssim_map(image, other)[0]
    assert similarity[12, 12] < 0.5
    assert torch.equal(similarity[30:, 30:], ssim_map(image, image)[0, 30:, 30:])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 64)])
def test_images_smaller_than_the_window_work(size: tuple[int, int]) -> None:
    image = torch.rand(1, 1, *size)
    assert torch.allclose(ssim_map(image, image), torch.ones(1, *size))


def test_stays_in_range_for_opposites() -> None:
    board = torch.zeros(1, 1, 32, 32)
    board[..., ::2, ::2] = 1
    board[..., 1::2, 1::2] = 1
    similarity = ssim_map(board, 1 - board)
    assert similarity.min() >= -1
    assert similarity.max() < -0.9


@pytest.mark.parametrize("shape", [(1, 3, 90, 70), (2, 2, 1, 33, 77), (3, 40, 5)])
def test_large_images_are_worked_on_in_strips_with_the_same_bits(shape, monkeypatch):
    first, second = torch.rand(shape), torch.rand(shape)
    whole = ssim_map(first, second)
    for pixels in (1, 300, 1000):
        monkeypatch.setattr("maskrestore.imaging.ssim._PIXELS_AT_A_TIME", pixels)
        assert torch.equal(ssim_map(first, second), whole)
