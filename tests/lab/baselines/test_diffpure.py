from pathlib import Path

import pytest
import torch

from diffusion_fakes import PointDenoiser, save_tiny_unet
from fakes import PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.errors import ConfigError
from maskrestore.lab.baselines.diffpure import DiffPure, DiffPureConfig
from maskrestore.types import Defense

SAMPLERS = ["ddpm", "sde"]
TRIGGER = PatchTriggerClassifier()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_model_removes_the_trigger(sampler: str) -> None:
    clean = plain_images(1)
    defense = DiffPure(PointDenoiser(data=clean[0] * 2 - 1), DiffPureConfig(sampler=sampler))  # type: ignore[arg-type]
    assert isinstance(defense, Defense)
    classifier = CountingClassifier(TRIGGER)
    result = defense.purify(TRIGGER.stamp(clean), classifier)
    assert result.original_labels.tolist() == [TRIGGER.target]
    assert torch.equal(result.labels, colour_labels(clean))
    assert (result.images - clean).abs().max() < 0.05
    assert result.queries.tolist() == [2]
    assert classifier.queries == 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 24, 20)])
def test_an_image_is_purified_to_the_same_bits_in_any_batch(
    sampler: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    config = DiffPureConfig(
        model=str(save_tiny_unet(tmp_path)),
        sampler=sampler,  # type: ignore[arg-type]
        noise_time=0.006,
        micro_batch=3,
    )
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    together = config.build(key="secret").purify(images, colour_labels)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = config.build(key="secret").purify(images[order], colour_labels)
    assert torch.equal(shuffled.images, together.images[order])
    for index in range(5):
        alone = config.build(key="secret").purify(images[index : index + 1], colour_labels)
        assert torch.equal(alone.images[0], together.images[index])
    assert together.images.shape == images.shape
    assert together.images.aminmax().min >= 0
    assert together.images.aminmax().max <= 1
    other = config.build(key="another").purify(images, colour_labels)
    assert not torch.equal(other.images, together.images)


def test_more_noise_changes_more(tmp_path: Path) -> None:
    images = plain_images(3)
    save_tiny_unet(tmp_path)
    changes = []
    for time in (0.001, 0.02):
        result = DiffPureConfig(model=str(tmp_path), noise_time=time).build().purify(images, colour_labels)
        changes.append((result.images - images).abs().mean())
    assert 0 < changes[0] < changes[1]


def test_the_published_settings_are_the_default() -> None:
    config = DiffPureConfig()
    assert (config.sampler, config.noise_time, config.model) == ("ddpm", 0.1, "google/ddpm-cifar10-32")
    with pytest.raises(ConfigError, match="sampler"):
        DiffPureConfig(sampler="ode")  # type: ignore[arg-type]
    for time in (0.0, 1.1):
        with pytest.raises(ConfigError, match="noise_time"):
            DiffPureConfig(noise_time=time)
