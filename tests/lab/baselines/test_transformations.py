import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.imaging.filters import affine, median
from maskrestore.lab.baselines import BASELINES
from maskrestore.lab.baselines.base import BaselineConfig
from maskrestore.lab.baselines.transformations import (
    AffineConfig,
    ContrastConfig,
    DownscaleConfig,
    GammaConfig,
    JpegConfig,
    MedianConfig,
    NoiseConfig,
    jpeg,
)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def transformed(config: BaselineConfig, images: Tensor) -> Tensor:
    return config.build().purify(images, lambda batch: torch.zeros(len(batch)).long()).images


@pytest.mark.parametrize(("name", "std"), [("noise-weak", 0.02), ("noise-strong", 0.1)])
def test_noise_is_normal_and_its_own_for_every_image(name: str, std: float) -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    grey[1, 0, 0, 0] = 0.4
    noise = transformed(BASELINES[name], grey) - grey
    assert noise.mean().item() == pytest.approx(0, abs=std / 30)
    assert noise.std().item() == pytest.approx(std, rel=0.02)
    assert (noise.abs() < std).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert torch.corrcoef(noise.flatten(1))[0, 1].abs() < 0.05


def test_contrast_moves_all_values_from_the_mean_by_one_factor() -> None:
    images = 0.3 + 0.4 * rand(40, 3, 8, 8)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    factors = (transformed(ContrastConfig(), images) - means) / (images - means)
    assert torch.allclose(factors, factors.flatten(1).median(dim=1).values.view(-1, 1, 1, 1), atol=1e-2)
    drawn = factors.flatten(1).median(dim=1).values
    assert 0.8 <= drawn.min() < 0.85
    assert 1.15 < drawn.max() <= 1.2


def test_gamma_raises_all_values_to_one_power() -> None:
    images = 0.1 + 0.8 * rand(40, 3, 8, 8)
    powers = (transformed(GammaConfig(), images).log() / images.log()).flatten(1)
    assert torch.allclose(powers, powers[:, :1], atol=1e-3)
    assert 0.799 < powers.min() < 0.85
    assert 1.15 < powers.max() < 1.201


def test_flip_mirrors_left_and_right() -> None:
    row = torch.tensor([[[[0.1, 0.2, 0.3]]]])
    assert transformed(BASELINES["flip"], row).flatten().tolist() == pytest.approx([0.3, 0.2, 0.1])


def test_downscale_by_half_as_computed_by_hand() -> None:
    row = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4, 1)[None, None]
    # Down to 1/7 and 6/7 (weights 3 : 3 : 1 from the border), then up with weights 3 : 1.
    expected = torch.tensor([4.0, 9.0, 19.0, 24.0]).repeat(4, 1) / 28
    assert torch.allclose(transformed(DownscaleConfig(factor=0.5), row)[0, 0], expected)


def test_affine_on_cases_without_interpolation() -> None:
    image = rand(3, 6, 6)

    def moved(**changes: float) -> Tensor:
        return affine(image, **{"degrees": 0.0, "scale": 1.0, "down": 0.0, "right": 0.0, **changes})

    assert torch.allclose(moved(), image, atol=1e-6)
    assert torch.allclose(moved(degrees=90.0), image.rot90(1, (1, 2)), atol=1e-5)  # rot90: counter-clockwise too
    assert torch.allclose(moved(down=1 / 6, right=2 / 6)[:, 1:, 2:], image[:, :-1, :-2], atol=1e-5)
    assert moved(down=1 / 6)[:, 0].abs().max() < 1e-5
    small = moved(scale=1 / 3)
    assert torch.allclose(small[:, 2:4, 2:4], image[:, 1::3, 1::3], atol=1e-5)
    assert small[:, :2].abs().max() == 0


def test_affine_does_not_distort_images_that_are_not_square() -> None:
    image = rand(1, 4, 10)
    turned = affine(image, degrees=180.0, scale=1.0, down=0.0, right=0.0)
    assert torch.allclose(turned, image.flip(-1, -2), atol=1e-5)
    quarter = affine(image, degrees=90.0, scale=1.0, down=0.0, right=0.0)
    assert torch.allclose(quarter[:, :, 3:7], image[:, :, 3:7].rot90(1, (1, 2)), atol=1e-5)


def test_affine_draws_within_its_ranges() -> None:
    # A bright pixel off the centre shows where it went.
    images = torch.zeros(60, 1, 33, 33)
    images[:, :, 15:18, 24:27] = 1
    images[:, :, 0, 0] = torch.linspace(0, 0.01, 60).view(-1, 1)  # makes the images differ
    moved = transformed(AffineConfig(degrees=90.0, shift=0.0, zoom=0.0), images)
    moved[:, :, 0, 0] = 0
    pixel = torch.arange(33.0) - 16
    weights = moved.sum(dim=(1, 2, 3))
    x = (moved.sum(dim=(1, 2)) * pixel).sum(dim=1) / weights
    y = (moved.sum(dim=(1, 3)) * pixel).sum(dim=1) / weights
    angles = torch.rad2deg(torch.atan2(-y, x))
    assert torch.allclose(x.hypot(y), torch.tensor(9.0), atol=0.2)
    assert -91 < angles.min() < -70
    assert 70 < angles.max() < 91


def test_median_equals_pillows_inside_and_mirrors_borders() -> None:
    pixels = (rand(12, 15) * 255).to(torch.uint8)
    ours = median(pixels[None, None] / 255, 3)[0, 0]
    pillow = torch.from_numpy(np.array(Image.fromarray(pixels.numpy()).filter(ImageFilter.MedianFilter(3)))) / 255
    assert torch.equal(ours[1:-1, 1:-1], pillow[1:-1, 1:-1])
    corner = median(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.5], [0.5, 0.5, 0.5]])[None, None], 3)[0, 0, 0, 0]
    assert corner == 0.3  # 0.9, twice 0.1, twice 0.2, four times 0.3


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_pillows_round_trip(channels: int) -> None:
    image = rand(channels, 11, 17)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(buffer, format="JPEG", quality=50)
    expected = torch.from_numpy(np.asarray(Image.open(buffer)).reshape(11, 17, channels).copy()).permute(2, 0, 1)
    assert torch.equal(jpeg(image, 50), expected / 255)
    assert torch.equal(transformed(BASELINES["jpeg"], image[None])[0], expected / 255)
    assert (jpeg(image, 95) - image).abs().mean() < (jpeg(image, 10) - image).abs().mean()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: NoiseConfig(std=0.0), "std"),
        (lambda: ContrastConfig(low=1.2, high=0.8), "low"),
        (lambda: GammaConfig(low=0.0), "low"),
        (lambda: DownscaleConfig(factor=1.0), "factor"),
        (lambda: AffineConfig(degrees=-1.0), "degrees"),
        (lambda: AffineConfig(shift=2.0), "shift"),
        (lambda: AffineConfig(zoom=1.0), "zoom"),
        (lambda: MedianConfig(size=2), "size"),
        (lambda: JpegConfig(quality=0), "quality"),
    ],
)
def test_settings_are_checked(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make()
