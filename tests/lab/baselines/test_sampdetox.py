from pathlib import Path

import pytest
import torch

from diffusion_fakes import GaussianDenoiser, PointDenoiser, save_tiny_unet
from fakes import PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.diffusion import ddpm_sample
from maskrestore.lab.baselines.sampdetox import SampDetox, SampDetoxConfig, local_levels, local_sample
from maskrestore.types import Defense

TRIGGER = PatchTriggerClassifier()


def noise(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_noise_goes_where_the_structure_changed() -> None:
    detoxified = plain_images(2, size=32) * 2 - 1
    images = detoxified.clone()
    images[0, :, 4:7, 4:7] = 1
    images[0, :, 5, 5] = -1
    levels = local_levels(images, detoxified, 120)
    assert levels.shape == (2, 1, 32, 32)
    assert levels.dtype == torch.int64
    assert levels[0].max() == 120
    assert (levels[0] == 120).nonzero()[0, 1:].tolist() in [[y, x] for y in range(3, 8) for x in range(3, 8)]
    assert (levels[0, 0, 16:] == 0).all()
    assert (levels[1] == 0).all()  # equal images: there is nothing to destroy


def test_pixels_wait_until_the_noise_has_come_down_to_them() -> None:
    denoiser, noisy = GaussianDenoiser(deviation=0.3), noise(0)
    levels = torch.zeros(2, 1, 16, 16, dtype=torch.int64)
    levels[:, :, :4] = 10
    levels[:, :, 4:8] = 3
    result = local_sample(denoiser, noisy, levels, 10, noise)
    assert torch.equal(result[:, :, 8:], noisy[:, :, 8:])
    # This network looks at each pixel alone, so that every region goes the way that it would go alone.
    assert torch.equal(result[:, :, :4], ddpm_sample(denoiser, noisy, 10, noise)[:, :, :4])
    assert torch.equal(result[:, :, 4:8], ddpm_sample(denoiser, noisy, 3, noise)[:, :, 4:8])


def test_a_perfect_model_removes_the_trigger() -> None:
    clean = plain_images(1)
    defense = SampDetox(PointDenoiser(data=clean[0] * 2 - 1))
    assert isinstance(defense, Defense)
    classifier = CountingClassifier(TRIGGER)
    result = defense.purify(TRIGGER.stamp(clean), classifier)
    assert result.original_labels.tolist() == [TRIGGER.target]
    assert torch.equal(result.labels, colour_labels(clean))
    assert result.queries.tolist() == [2]
    assert classifier.queries == 2
    torch.testing.assert_close(result.images, clean, atol=1e-3, rtol=0)


def test_an_image_is_purified_to_the_same_bits_in_any_batch(tmp_path: Path) -> None:
    config = SampDetoxConfig(model=str(save_tiny_unet(tmp_path)), global_level=2, local_level=6, micro_batch=3)
    images = torch.rand(4, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    together = config.build(key=5).purify(images, colour_labels)
    for index in range(4):
        alone = config.build(key=5).purify(images[index : index + 1], colour_labels)
        assert torch.equal(alone.images[0], together.images[index])
    assert not torch.equal(config.build(key=6).purify(images, colour_labels).images, together.images)


def test_the_published_settings_are_the_default() -> None:
    assert (SampDetoxConfig().global_level, SampDetoxConfig().local_level) == (20, 120)
    for settings in ({"global_level": 0}, {"local_level": 1001}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            SampDetoxConfig(**settings)
