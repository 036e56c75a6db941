import math

import pytest
import torch
from torch import Tensor

from maskrestore.imaging.spectrum import without_peaks, without_slow_changes


def wave(height: int, width: int, periods: float, amplitude: float = 0.1) -> Tensor:
    columns = torch.arange(width).float()
    return amplitude * torch.sin(2 * math.pi * periods * columns / width).expand(3, height, width)


def texture(height: int, width: int) -> Tensor:
    return 0.3 + 0.4 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (33, 31)])
def test_a_wave_goes_and_the_rest_stays(height: int, width: int) -> None:
    image = texture(height, width)
    filtered = without_peaks((image + wave(height, width, 6)).clamp(0, 1))
    assert (filtered - without_peaks(image)).std() < 0.2 * wave(height, width, 6).std()
    assert (without_peaks(image) - image).std() < 0.5 * image.std()


def test_slow_waves_are_no_peaks() -> None:
    image = (0.5 + wave(32, 32, 1)).clamp(0, 1)
    torch.testing.assert_close(without_peaks(image), image, atol=1e-6, rtol=0)


def test_what_changes_slowly_goes_and_the_mean_colour_stays() -> None:
    slow, fast = wave(32, 32, 1), wave(32, 32, 10)
    image = torch.tensor([0.3, 0.5, 0.7]).view(3, 1, 1) + slow + fast
    filtered = without_slow_changes(image, 2.0)
    torch.testing.assert_close(filtered.mean(dim=(1, 2)), torch.tensor([0.3, 0.5, 0.7]), atol=1e-5, rtol=0)
    # exp(-1/8) of a wave of one period is removed, and exp(-100/8) of one of ten
    expected = image - math.exp(-1 / 8) * slow
    torch.testing.assert_close(filtered, expected, atol=1e-5, rtol=0)


def test_results_stay_in_the_range_of_pixels() -> None:
    image = (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    for filtered in (without_peaks(image), without_slow_changes(image, 2.0)):
        assert filtered.shape == image.shape
        assert filtered.dtype == torch.float32
        assert 0 <= float(filtered.min()) <= float(filtered.max()) <= 1


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images_are_taken(side: int) -> None:
    image = torch.full((3, side, side), 0.25)
    torch.testing.assert_close(without_peaks(image), image)
    torch.testing.assert_close(without_slow_changes(image, 2.0), image)
