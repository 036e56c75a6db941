import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, PROFILES, within
from maskrestore.defense.beyond_paper.fragile import FragileConfig
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings

TARGET = 9
ALONE = with_settings(PROFILES["default"], {"moved": None, "squares": None, "whole_image": None})


class ExactClassifier:
    """Answers ``TARGET`` for these very images, as a trigger does that works pixel by pixel, else their colours."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, pictures: Tensor) -> Tensor:
        same = (pictures.unsqueeze(1) == self.images).flatten(2).all(dim=2).any(dim=1)
        return torch.where(same, TARGET, colour_labels(pictures))


def test_a_trigger_that_faint_noise_breaks_is_found() -> None:
    images = plain_images(6)
    victim = ExactClassifier(images)
    without = BDMAE(MeanRestorer(), with_settings(ALONE, {"fragile": None, "scores.consensus": False}))
    assert (without.purify(images, victim).labels == TARGET).all()
    result = BDMAE(MeanRestorer(), with_settings(ALONE, {"scores.consensus": False})).purify(images, victim)
    assert torch.equal(result.labels, colour_labels(images))
    assert torch.equal(victim(result.images), result.labels)
    assert result.hidden is not None
    assert result.hidden.all()


def test_copies_that_disagree_leave_the_image_as_it_is() -> None:
    images = plain_images(6)

    def restless(pictures: Tensor) -> Tensor:
        """Another label for every other picture: nothing agrees."""
        same = (pictures.unsqueeze(1) == images).flatten(2).all(dim=2).any(dim=1)
        digits = (pictures.double().sum(dim=(1, 2, 3)) * 1e4).long() % 1000
        return torch.where(same, TARGET, 10 + digits)

    result = BDMAE(MeanRestorer(), ALONE).purify(images, restless)
    assert (result.labels == TARGET).all()
    assert torch.equal(result.images, images)


@pytest.mark.parametrize(("in_the_mirror", "settled"), [(TARGET, False), (8, True)])
def test_mirrored_copies_must_not_keep_the_label_but_may_have_another_one(in_the_mirror: int, settled: bool) -> None:
    images = plain_images(4)
    images[:, :, :, :6] /= 4  # which tells them from their mirrored copies

    def sign(pictures: Tensor) -> Tensor:
        """Noise and restorations break the trigger; in the mirror the sign is another one, or keeps the trigger."""
        same = (pictures.unsqueeze(1) == images).flatten(2).all(dim=2).any(dim=1)
        mirrored = (pictures.unsqueeze(1) - images.flip(3)).abs().mean(dim=(2, 3, 4)).amin(dim=1)
        upright = (pictures.unsqueeze(1) - images).abs().mean(dim=(2, 3, 4)).amin(dim=1)
        return torch.where(same, TARGET, torch.where(mirrored < upright, in_the_mirror, 1))

    result = BDMAE(MeanRestorer(), ALONE).purify(images, sign)
    assert (result.labels == (1 if settled else TARGET)).all()


def test_the_noise_of_an_image_depends_on_the_key_and_not_on_the_batch() -> None:
    images = plain_images(4)
    asked: list[Tensor] = []

    def watching(pictures: Tensor) -> Tensor:
        asked.append(pictures.clone())
        return torch.zeros(len(pictures), dtype=torch.int64)

    BDMAE(MeanRestorer(), ALONE, key=1).purify(images, watching)
    together = asked[-1]
    assert together.shape == images.shape
    assert (together - images).abs().max() < 0.2
    for row, image in enumerate(images):
        BDMAE(MeanRestorer(), ALONE, key=1).purify(image, watching)
        assert torch.equal(asked[-1][0], together[row])
    BDMAE(MeanRestorer(), ALONE, key=2).purify(images, watching)
    assert not torch.equal(asked[-1], together)


@pytest.mark.parametrize("limit", [27, 32, 33, 47])  # 26 queries before it, at most seven for it
def test_it_spends_what_is_left_and_no_more(limit: int) -> None:
    images = plain_images(2)
    counting = CountingClassifier(ExactClassifier(images))
    config = within(ALONE, limit)
    result = BDMAE(MeanRestorer(), config).purify(images, counting)
    assert counting.queries == int(result.queries.sum())
    assert int(result.queries.max()) <= config.max_queries <= limit
    assert (result.labels != TARGET).tolist() == [limit >= 33] * 2


@pytest.mark.parametrize("settings", [{"noise": 0.0}, {"noise": 2.0}, {"query_limit": 0}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fragile"):
        FragileConfig(**settings)  # type: ignore[arg-type]
