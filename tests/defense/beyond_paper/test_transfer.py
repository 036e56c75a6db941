import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, BDMAEConfig
from maskrestore.defense.beyond_paper.clouds import CLOUD_GRIDS, clouds
from maskrestore.defense.beyond_paper.transfer import TURNS, Attempt, TransferTestConfig, transfer_test, turned
from maskrestore.defense.oracle import Oracle, run
from maskrestore.defense.restoration import RestorationConfig
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.types import Classifier

CLOUDS = len(CLOUD_GRIDS)
COMPARED = 2 * CLOUDS + 2 * TURNS
TRIGGER = PatchTriggerClassifier()


def photos(count: int, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    """Clearly dark or clearly bright in each channel, with a little noise."""
    generator = torch.Generator().manual_seed(4)
    bright = torch.rand(count, channels, 1, 1, generator=generator) < 0.5
    noise = torch.rand(count, channels, height, width, generator=generator)
    return 0.2 + 0.5 * bright + 0.1 * noise


def all_to_all(images: Tensor) -> Tensor:
    """The label after its own where the patch is, among eight. Far from the patch, which else decides on a picture of
    mean colour."""
    return (colour_labels(images[..., 8:, 8:]) + (TRIGGER(images) == TRIGGER.target)) % 8


@dataclass(frozen=True)
class Tried:
    """A restoration of some tokens of images, and their labels before it."""

    images: Tensor
    before: Tensor
    attempt: Attempt

    def test(self, classifier: Classifier, *, enough: int, compare: bool) -> tuple[Tensor, Tensor]:
        """The transfer test: what it believes, and what it asked about each image."""
        restorer, count = MeanRestorer(8), len(self.images)
        oracle = Oracle(count, COMPARED)
        state = State(self.images, [Stream(0, image) for image in self.images], restorer, oracle)
        state.begin(self.before)
        rounds = transfer_test(
            state, torch.arange(count), self.attempt, grids=CLOUD_GRIDS, enough=enough, compare=compare
        )
        return run(rounds, restorer, classifier), oracle.queries


def attempt(images: Tensor, classifier: Classifier, tokens: slice) -> Tried:
    """Grey out tokens of an 8 x 8 grid in both directions."""
    hidden = torch.zeros(len(images), 8, 8, dtype=torch.bool)
    hidden[:, tokens, tokens] = True
    restored = MeanRestorer(8).restore(images, hidden)
    made = Attempt(restored=restored, hidden=hidden, labels=classifier(restored))
    return Tried(images, classifier(images), made)


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 16), (1, 16, 16), (3, 12, 20)])
def test_pictures_are_clouds_and_turned_copies_of_their_own_image(channels: int, height: int, width: int) -> None:
    images = photos(3, height, width, channels)
    streams = [Stream("key", image) for image in images]
    copies = turned(images)
    assert copies.shape == (3, TURNS, channels, height, width)
    assert torch.equal(copies[:, 0], images.flip(3))
    assert torch.equal(copies[:, 2], images.flip(2).flip(3))
    random = clouds(images, streams)
    assert random.shape == (3, CLOUDS, channels, height, width)
    assert random.min() >= 0
    assert random.max() <= 1
    assert len({tuple(cloud.tolist()) for cloud in random.flatten(2).flatten(0, 1)}) == 3 * CLOUDS
    assert torch.equal(clouds(images[1:2], streams[1:2]), random[1:2])


def test_clouds_have_as_many_colours_as_their_grid_says() -> None:
    images = photos(1, 32, 32)
    drawn = clouds(images, [Stream(0, images[0])], (2, 4, 8, 32))[0]
    # Neighbouring pixels of noise have nothing in common, those of a smooth cloud nearly everything.
    roughness = drawn.diff(dim=3).abs().mean(dim=(1, 2, 3))
    assert (roughness.diff() > 0).all()
    assert roughness[-1] == pytest.approx(1 / 3, abs=0.02)  # of two uniform numbers


def test_the_region_of_a_trigger_is_found_with_one_query_for_each_cloud() -> None:
    images = TRIGGER.stamp(photos(4))
    found, queries = attempt(images, TRIGGER, slice(0, 2)).test(TRIGGER, enough=2, compare=True)
    assert found.all()
    assert queries.tolist() == [CLOUDS] * 4


def test_a_trigger_with_a_target_for_each_class_is_found_by_comparing() -> None:
    images = TRIGGER.stamp(photos(2))
    counted = CountingClassifier(all_to_all)
    tried = attempt(images, all_to_all, slice(0, 2))
    found, queries = tried.test(counted, enough=2, compare=True)
    assert found.all()
    assert queries.tolist() == [COMPARED] * 2
    assert counted.queries == 2 * COMPARED
    found, queries = tried.test(counted, enough=2, compare=False)
    assert not found.any()
    assert queries.tolist() == [CLOUDS] * 2


@pytest.mark.parametrize(("enough", "believed"), [(2, True), (CLOUDS, False), (CLOUDS + 1, False)])
def test_a_cloud_that_the_label_does_not_come_along_to_counts_against_it(enough: int, believed: bool) -> None:
    def strange(images: Tensor) -> Tensor:
        labels = TRIGGER(images)
        labels[::CLOUDS] = 7  # the first cloud
        return labels

    tried = attempt(TRIGGER.stamp(photos(2)), TRIGGER, slice(0, 2))
    found, queries = tried.test(strange, enough=enough, compare=False)
    assert found.tolist() == [believed] * 2
    assert queries.tolist() == [CLOUDS] * 2


@pytest.mark.parametrize(("enough", "believed"), [(2, True), (CLOUDS, False), (CLOUDS + 1, False)])
def test_a_cloud_may_have_by_chance_the_label_that_it_gets(enough: int, believed: bool) -> None:
    tried = attempt(TRIGGER.stamp(photos(2)), all_to_all, slice(0, 2))
    answers: list[Tensor] = []

    def chance(images: Tensor) -> Tensor:
        labels = all_to_all(images)
        if len(answers) == 1:  # the clouds without the region: the first has the label that it had with it
            labels[::CLOUDS] = answers[0][::CLOUDS]
        answers.append(labels)
        return labels

    found, queries = tried.test(chance, enough=enough, compare=True)
    assert found.tolist() == [believed] * 2
    assert queries.tolist() == [COMPARED if believed else 2 * CLOUDS] * 2


def test_a_region_that_decides_only_its_own_image_is_no_trigger() -> None:
    # Just above one half in red: any darker region decides the label, on this image alone.
    images = torch.full((1, 3, 16, 16), 0.4)
    images[:, 0] = 0.499
    images[:, 0, :4, :4] = 0.53
    tried = attempt(images, colour_labels, slice(0, 2))
    assert tried.before != tried.attempt.labels
    found, queries = tried.test(colour_labels, enough=2, compare=True)
    assert not found.any()
    assert queries.tolist() == [2 * CLOUDS]  # the clouds tell already; turned copies are not asked


def test_a_label_that_stays_is_worth_no_query() -> None:
    tried = attempt(photos(3), TRIGGER, slice(6, 8))
    tried = Tried(tried.images, tried.before, dataclasses.replace(tried.attempt, labels=tried.before))

    def refuse(images: Tensor) -> Tensor:
        raise AssertionError("asked")

    found, queries = tried.test(refuse, enough=2, compare=True)
    assert not found.any()
    assert not queries.any()


def test_what_is_not_believed_comes_back_as_it_came() -> None:
    images = torch.cat([photos(6), TRIGGER.stamp(photos(6))])
    result = BDMAE(MeanRestorer(8)).purify(images, TRIGGER)
    assert result.hidden is not None
    unchanged = result.labels == result.original_labels
    assert unchanged[:6].all()
    assert not unchanged[6:].any()
    assert torch.equal(result.images[unchanged], images[unchanged])
    assert torch.equal(result.hidden.flatten(1).any(dim=1), ~unchanged)


def test_several_attempts_need_the_test() -> None:
    several = RestorationConfig(attempts=(0.0, 0.1))
    assert BDMAEConfig(restoration=several, transfer_test=TransferTestConfig()).transfer_test is not None
    with pytest.raises(ConfigError, match="attempts"):
        BDMAEConfig(restoration=several)
