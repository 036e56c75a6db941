"""One table over all defenses: what every one of them promises."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_fakes import save_tiny_unet
from fakes import MeanRestorer
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.profiles import PROFILES
from maskrestore.defense.streams import Key
from maskrestore.errors import InvalidImageError
from maskrestore.lab.baselines import BASELINES, DETECTORS, BaselineConfig, DetectorConfig
from maskrestore.lab.measure.defenses import NoDefense
from maskrestore.types import Defense, Purification

ELSEWHERE = {"februus-xgradcam", "februus-gradcam++"}
"""Baselines that refuse the black boxes of this table: ``tests/baselines/test_februus.py`` holds them to the same."""
SHORT = {
    "diffpure-ddpm": {"noise_time": 0.004},
    "diffpure-sde": {"noise_time": 0.004},
    "zip": {"steps": 4},
    "sampdetox": {"global_level": 2, "local_level": 4},
}
"""Baselines by diffusion, with few steps and a tiny network."""


def by_diffusion(name: str) -> Callable[[Key], Defense]:
    return lambda key: dataclasses.replace(BASELINES[name], model=tiny_unet(), micro_batch=2, **SHORT[name]).build(key)


@functools.cache
def tiny_unet() -> str:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return str(save_tiny_unet(folder))


DEFENSES: dict[str, Callable[[Key], Defense]] = {
    "none": lambda key: NoDefense(),
    "bdmae": lambda key: BDMAE(MeanRestorer(), PROFILES["default"], key=key),
    "bdmae-paper": lambda key: BDMAE(MeanRestorer(), PROFILES["paper"], key=key),
    **{name: config.build for name, config in BASELINES.items() if name not in {*ELSEWHERE, *SHORT}},
    **{name: by_diffusion(name) for name in SHORT},
}
RANDOM = {
    *("bdmae", "bdmae-paper", "shrinkpad-weak", "shrinkpad-strong", "majority-vote"),
    *("noise-weak", "noise-strong", "contrast", "gamma", "affine"),
    *("diffpure-ddpm", "diffpure-sde", "zip", "sampdetox"),
}
RANDOM_DETECTORS = {"strip", "teco", "bbcal"}
SHAPES = [(3, 16, 16), (1, 16, 16), (3, 13, 20), (1, 5, 3)]
every_defense = pytest.mark.parametrize("name", DEFENSES)
every_detector = pytest.mark.parametrize("name", DETECTORS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images(shape: tuple[int, ...], count: int = 5) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def checksum_labels(images: Tensor) -> Tensor:
    """Labels 0 to 3 that change with any bit of an image, and with nothing else."""
    return torch.tensor([zlib.crc32(image.contiguous().numpy().tobytes()) % 4 for image in images])


def brightness_labels(images: Tensor) -> Tensor:
    """Labels 0 to 9 by mean brightness in 200 steps: small changes of the image often change them."""
    means = [float(image.double().mean()) for image in images]
    return torch.tensor([int(mean * 200) % 10 for mean in means])


CLASSIFIERS = [checksum_labels, brightness_labels]
every_classifier = pytest.mark.parametrize("classifier", CLASSIFIERS)


def assert_same(first: Purification, second: Purification) -> None:
    for part in ("images", "labels", "original_labels", "queries"):
        assert torch.equal(getattr(first, part), getattr(second, part)), part


@every_defense
@every_shape
@every_classifier
def test_result_is_valid_and_its_labels_are_the_classifiers(
    name: str, shape: tuple[int, ...], classifier: Callable[[Tensor], Tensor]
) -> None:
    batch = images(shape)
    before = batch.clone()
    counting = CountingClassifier(classifier)
    result = DEFENSES[name](0).purify(batch, counting)
    assert torch.equal(batch, before), "the input was changed"
    assert result.images.shape == batch.shape
    assert result.images.dtype == torch.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert torch.equal(result.original_labels, classifier(batch))
    assert torch.equal(result.labels, classifier(result.images))
    for labels in (result.labels, result.original_labels, result.queries):
        assert labels.shape == (len(batch),)
        assert labels.dtype == torch.int64
    assert int(result.queries.sum()) == counting.queries


@every_defense
@every_shape
@every_classifier
def test_each_image_is_purified_on_its_own_bit_for_bit(
    name: str, shape: tuple[int, ...], classifier: Callable[[Tensor], Tensor]
) -> None:
    batch = images(shape)
    together = DEFENSES[name](0).purify(batch, classifier)
    alone = []
    for image in batch.split(1):
        counting = CountingClassifier(classifier)
        alone.append(DEFENSES[name](0).purify(image, counting))
        assert alone[-1].queries.tolist() == [counting.queries]
    assert_same(Purification.concatenate(alone), together)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = DEFENSES[name](0).purify(batch[order], classifier)
    assert torch.equal(shuffled.images, together.images[order])
    assert torch.equal(shuffled.labels, together.labels[order])


@every_defense
def test_equal_keys_replay_and_other_keys_matter_to_random_defenses_only(name: str) -> None:
    batch = images((3, 16, 16), 8)
    first = DEFENSES[name]("secret").purify(batch, brightness_labels)
    state = torch.get_rng_state()
    torch.manual_seed(123)  # the global generator must not matter
    assert_same(DEFENSES[name]("secret").purify(batch, brightness_labels), first)
    torch.set_rng_state(state)
    defense = DEFENSES[name]("other")
    other = defense.purify(batch, brightness_labels)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    same = torch.equal(other.images, first.images)
    if first.scores is not None and other.scores is not None:  # images may stay as they are with any key
        same &= torch.equal(other.scores, first.scores)
    assert same != (name in RANDOM)
    assert_same(defense.purify(batch, brightness_labels), other)


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - ELSEWHERE))
def test_baselines_take_8_bit_images_and_refuse_bad_ones(name: str) -> None:
    defense = DEFENSES[name](0)
    eight_bit = (images((3, 16, 16), 2) * 255).to(torch.uint8)
    assert_same(defense.purify(eight_bit, checksum_labels), defense.purify(eight_bit / 255, checksum_labels))
    with pytest.raises(InvalidImageError, match="NaN"):
        defense.purify(torch.full((1, 3, 8, 8), float("nan")), checksum_labels)


@every_detector
@every_shape
def test_detectors_score_each_image_on_its_own_and_count_queries(name: str, shape: tuple[int, ...]) -> None:
    batch = images(shape, 20)
    before = batch.clone()
    counting = CountingClassifier(brightness_labels)
    detector = DETECTORS[name].build("secret")
    together = detector.score(batch, counting)
    assert torch.equal(batch, before), "the input was changed"
    assert together.scores.shape == together.queries.shape == (20,)
    assert together.scores.isfinite().all()
    assert len(together.scores.unique()) > 1, "all images look alike to it"
    assert int(together.queries.sum()) == counting.queries
    alone = [detector.score(image, brightness_labels) for image in batch.split(1)]
    assert torch.equal(torch.cat([part.scores for part in alone]), together.scores)
    assert torch.equal(torch.cat([part.queries for part in alone]), together.queries)
    replayed = DETECTORS[name].build("secret").score(batch, brightness_labels)
    assert torch.equal(replayed.scores, together.scores)
    other = DETECTORS[name].build("other").score(batch, brightness_labels)
    assert torch.equal(other.scores, together.scores) != (name in RANDOM_DETECTORS)


@pytest.mark.parametrize("config", [*BASELINES.values(), *DETECTORS.values()], ids=[*BASELINES, *DETECTORS])
def test_settings_can_be_recorded(config: BaselineConfig | DetectorConfig) -> None:
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    assert settings.keys() == {field.name for field in dataclasses.fields(config)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 5  # type: ignore[union-attr]


def test_names_in_the_tables_above_exist() -> None:
    assert set(BASELINES) >= ELSEWHERE
    assert set(DEFENSES) >= RANDOM
    assert set(DETECTORS) >= RANDOM_DETECTORS
