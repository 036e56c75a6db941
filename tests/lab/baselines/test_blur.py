import math

import pytest
import torch
import torch.nn.functional as F

from maskrestore.errors import ConfigError
from maskrestore.imaging.filters import gaussian_blur, shifted
from maskrestore.lab.baselines import BASELINES
from maskrestore.lab.baselines.blur import BlurConfig


def impulse(row: int, column: int, side: int = 5) -> torch.Tensor:
    image = torch.zeros(1, 1, side, side)
    image[..., row, column] = 1
    return image


@pytest.mark.parametrize(
    ("name", "centre", "side", "corner"),
    [
        # Taps 1 and exp(-1 / (2 sigma^2)) on both sides, normalised: 0.78699, 0.10651 and 0.45186, 0.27407.
        ("blur-weak", 0.619347, 0.083819, 0.011344),
        ("blur-strong", 0.204180, 0.123841, 0.075114),
    ],
)
def test_one_bright_pixel_spreads_as_computed_by_hand(name: str, centre: float, side: float, corner: float) -> None:
    blurred = BASELINES[name].build().purify(impulse(2, 2), lambda images: torch.zeros(len(images)).long()).images
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = torch.tensor([[corner, side, corner], [side, centre, side], [corner, side, corner]])
    assert torch.allclose(blurred[0, 0], expected, atol=2e-6)


def test_borders_mirror_without_repeating_the_edge() -> None:
    # Seen from column 0, column 1 lies on both sides.
    blurred = gaussian_blur(impulse(2, 1), 3, 1.0)[0, 0]
    assert blurred[2, 0] == pytest.approx(2 * 0.123841, abs=2e-6)
    copies = shifted(torch.arange(4.0).view(1, 1, 1, 4), -1, 2)
    assert [copy.flatten().tolist() for copy in copies] == [
        [2, 1, 0, 1],
        [1, 0, 1, 2],
        [0, 1, 2, 3],
        [1, 2, 3, 2],
        [2, 3, 2, 1],
    ]


def test_equals_a_convolution_with_reflected_padding() -> None:
    images = torch.rand(3, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    taps = torch.tensor([math.exp(-(offset**2) / (2 * 1.3**2)) for offset in range(-2, 3)])
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(3, 1, 5, 5)
    expected = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    assert torch.allclose(gaussian_blur(images, 5, 1.3), expected, atol=1e-6)


def test_images_smaller_than_the_kernel() -> None:
    assert gaussian_blur(torch.full((1, 1, 1, 2), 0.5), 5, 1.0).tolist() == [[[[0.5, 0.5]]]]


@pytest.mark.parametrize("settings", [{"size": 4}, {"size": 0}, {"sigma": 0.0}, {"sigma": math.nan}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        BlurConfig(**settings)
