import math
from pathlib import Path

import pytest
import torch

from diffusion_fakes import GaussianDenoiser, PointDenoiser, ZeroDenoiser, save_tiny_unet
from fakes import PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.diffusion import kept
from maskrestore.lab.baselines.zero_shot import ZIP, ZIPConfig, blurred, greyed
from maskrestore.types import Defense

TRIGGER = PatchTriggerClassifier()


def test_the_transformations_of_a_case_computed_by_hand() -> None:
    image = torch.tensor([[[[0.0, 4.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[5.0, 1.0], [0.0, 6.0]]]])
    assert torch.equal(blurred(image, 2), torch.tensor([2.0, 1.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2))
    assert torch.equal(greyed(image)[0, 0], torch.tensor([[2.0, 2.0], [1.0, 3.0]]))


def test_the_transformations_are_projections() -> None:
    images = torch.rand(2, 3, 8, 8)
    for project in (lambda x: blurred(x, 4), greyed):
        torch.testing.assert_close(project(project(images)), project(images))


def test_guidance_replaces_the_range_and_keeps_the_null_space() -> None:
    images, noisy, predicted = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    zip_ = ZIP(ZeroDenoiser(image_size=8), ZIPConfig(grey=False, guidance=1e9))
    now = kept(500)
    guided = zip_._guided(images, noisy, predicted, now)
    wanted = math.sqrt(now) * images + math.sqrt(1 - now) * predicted
    torch.testing.assert_close(blurred(guided, 2), blurred(wanted, 2))
    torch.testing.assert_close(guided - blurred(guided, 2), noisy - blurred(noisy, 2))


def test_a_perfect_model_removes_the_trigger() -> None:
    clean = plain_images(1)
    defense = ZIP(PointDenoiser(data=clean[0] * 2 - 1))
    assert isinstance(defense, Defense)
    classifier = CountingClassifier(TRIGGER)
    result = defense.purify(TRIGGER.stamp(clean), classifier)
    assert result.original_labels.tolist() == [TRIGGER.target]
    assert torch.equal(result.labels, colour_labels(clean))
    assert result.queries.tolist() == [2]
    assert classifier.queries == 2
    assert (result.images - clean).abs().max() < 0.05


def test_the_image_guides_a_model_that_knows_nothing_of_it() -> None:
    images = torch.full((2, 3, 16, 16), 0.3)
    images[0, :, :8], images[1, :, :, :8] = 0.7, 0.7  # bright above, bright on the left
    denoiser = GaussianDenoiser(deviation=0.3)
    result = ZIP(denoiser, ZIPConfig(grey=False, steps=50)).purify(images, colour_labels).images
    contrast_above = result[:, :, :8].mean((1, 2, 3)) - result[:, :, 8:].mean((1, 2, 3))
    contrast_left = result[:, :, :, :8].mean((1, 2, 3)) - result[:, :, :, 8:].mean((1, 2, 3))
    assert contrast_above[0] > 0.1
    assert contrast_left[1] > 0.1
    assert contrast_above[1].abs() < 0.05
    assert contrast_left[0].abs() < 0.05


def test_an_image_is_purified_to_the_same_bits_in_any_batch(tmp_path: Path) -> None:
    config = ZIPConfig(model=str(save_tiny_unet(tmp_path)), steps=4, micro_batch=3)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = config.build(key=5).purify(images, colour_labels)
    for index in range(4):
        alone = config.build(key=5).purify(images[index : index + 1], colour_labels)
        assert torch.equal(alone.images[0], together.images[index])
    assert not torch.equal(config.build(key=6).purify(images, colour_labels).images, together.images)


def test_impossible_settings_are_refused() -> None:
    for settings in ({"scale": 0}, {"steps": 0}, {"steps": 1001}, {"guidance": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            ZIPConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scale must be a divisor"):
        ZIP(ZeroDenoiser(image_size=16), ZIPConfig(scale=3))
