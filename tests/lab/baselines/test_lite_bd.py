import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import PatchTriggerClassifier, plain_images
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.lite_bd import LiteBD, LiteBDConfig, band_stops, sharpened, without_band

SIDE = 32


def wave(cycles: int, amplitude: float = 0.3) -> Tensor:
    """``(1, SIDE, SIDE)``: a cosine along the columns around 0.5."""
    phase = 2 * math.pi * cycles * torch.arange(SIDE) / SIDE
    return (0.5 + amplitude * phase.cos()).expand(1, SIDE, SIDE).clone()


def amplitude_labels(cycles: int, threshold: float = 0.1) -> object:
    """A backdoored classifier: 1 where the frequency is strong."""

    def classifier(images: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(images[:, 0].double()).abs() * 2 / SIDE**2
        return (spectrum[:, 0, cycles] > threshold).long()

    return classifier


@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 14)])
def test_band_stops_are_those_of_the_public_code(height: int, width: int) -> None:
    bands, transition = 20, 0.08
    gains = torch.fft.fftshift(band_stops(height, width, bands=bands, transition=transition), dim=(-2, -1))
    for index in range(bands):
        low, high = np.linspace(0, 1, bands + 1)[index : index + 2]
        for y in range(height):
            for x in range(width):
                farthest = math.hypot(height // 2, width // 2)
                distance = math.hypot(y - height // 2, x - width // 2) / farthest
                if low <= distance <= high:
                    expected = 0.0
                elif distance < low:
                    expected = min(1.0, (low - distance) / transition)
                else:
                    expected = min(1.0, (distance - high) / transition)
                assert float(gains[index, y, x]) == pytest.approx(expected, abs=1e-9)


def test_a_band_takes_out_its_frequency_and_leaves_distant_ones() -> None:
    gains = band_stops(SIDE, SIDE, bands=10, transition=0.02)
    cycles = 7  # at 7 / 22.6 = 0.309 of the highest frequency: in the fourth ring of ten
    filtered = without_band(wave(cycles), gains)
    assert filtered.shape == (10, 1, SIDE, SIDE)
    assert torch.allclose(filtered[3], torch.full((1, SIDE, SIDE), 0.5), atol=1e-6)
    assert torch.allclose(filtered[7], wave(cycles), atol=1e-6)


def test_sharpening_as_computed_by_hand() -> None:
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 0.9
    bright = sharpened(torch.full((1, 5, 5), 0.2) + image / 9, 0.5)[0]
    # The centre is 0.3, the mean around it 0.2 + 0.1 / 9.
    assert float(bright[2, 2]) == pytest.approx(0.3 + 0.5 * (0.1 - 0.1 / 9), abs=1e-6)
    assert float(bright[2, 1]) == pytest.approx(0.2 - 0.5 * 0.1 / 9, abs=1e-6)
    assert float(bright[0, 0]) == pytest.approx(0.2 + 0.5 * (0.2 - 4 * 0.2 / 9), abs=1e-6)


def test_stage_1_decides_when_it_changes_the_label() -> None:
    victim = PatchTriggerClassifier()
    clean = plain_images(4, size=SIDE)
    result = LiteBD().purify(victim.stamp(clean), victim)
    assert torch.equal(result.labels, victim(clean))
    assert result.queries.tolist() == [2] * 4


def test_stage_2_finds_the_band_of_a_trigger_that_survives_rescaling() -> None:
    classifier = amplitude_labels(3)
    batch = torch.stack([wave(3), wave(3, amplitude=0.0)])
    result = LiteBD().purify(batch, classifier)
    assert result.original_labels.tolist() == [1, 0]
    assert result.labels.tolist() == [0, 0]
    assert result.queries.tolist() == [2 + 50 + 1, 2 + 50]
    assert torch.equal(result.images[1], batch[1])
    assert (result.images[0, 0, 1:-1, 1:-1].std(dim=1) < 0.1).all()  # 0.21 with the wave


def test_the_most_frequent_other_label_decides_which_band_goes() -> None:
    answers = iter(
        [
            [0],  # as it came
            [0],  # rescaled
            [0, 3, 2, 2, 3, 2],  # the bands, one after another
            [2],  # without the first band that gave 2, sharpened
        ]
    )
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    config = LiteBDConfig(bands=6)
    result = LiteBD(config).purify(image, lambda images: next(answers))
    assert result.labels.tolist() == [2]
    expected = without_band(image[0], band_stops(8, 8, bands=6, transition=config.transition))[2]
    assert torch.equal(result.images[0], sharpened(expected, config.sharpening))
    assert result.queries.tolist() == [9]


def test_an_image_whose_label_comes_back_stays_as_it_is() -> None:
    answers = iter([[0], [0], [1, 0], [0]])
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = LiteBD(LiteBDConfig(bands=2)).purify(image, lambda images: next(answers))
    assert torch.equal(result.images, image)
    assert result.labels.tolist() == [0]
    assert result.queries.tolist() == [5]


def test_another_super_resolution_can_be_plugged_in() -> None:
    sizes = []

    def white(image: Tensor, height: int, width: int) -> Tensor:
        sizes.append((*image.shape, height, width))
        return torch.ones(len(image), height, width)

    images = torch.zeros(2, 3, 9, 12)
    result = LiteBD(upscale=white).purify(images, lambda batch: (batch.mean(dim=(1, 2, 3)) > 0.5).long())
    assert sizes == [(3, 6, 9, 9, 12)] * 2
    assert torch.equal(result.images, torch.ones_like(images))


@pytest.mark.parametrize("settings", [{"scale": 1.0}, {"bands": 0}, {"transition": 0.0}, {"sharpening": -1.0}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LiteBDConfig(**settings)
