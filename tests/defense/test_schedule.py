"""The schedules: fewer queries and passes, by name, with the same contracts."""

import itertools

import pytest
import torch

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore import BDMAE, PROFILES, BDMAEConfig, CountingClassifier
from maskrestore.defense.schedule import fast, scheduled, within
from maskrestore.errors import ConfigError

TRIGGER = PatchTriggerClassifier()
CONFIGS = [
    pytest.param(scheduled(PROFILES[profile], schedule, budget), id=f"{profile}-{schedule}-{budget}")
    for profile, schedule, budget in itertools.product(PROFILES, ("exact", "fast"), (None, 20, 8, 4, 2, 1))
]


def mixed(count: int) -> torch.Tensor:
    images = plain_images(count)
    images[::2] = TRIGGER.stamp(images[::2])
    return images


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_spent_is_counted_and_within_the_bound(config: BDMAEConfig) -> None:
    for image in mixed(4):
        counting = CountingClassifier(TRIGGER)
        result = BDMAE(MeanRestorer(), config).purify(image, counting)
        assert 1 <= result.queries.item() == counting.queries <= config.max_queries


@pytest.mark.parametrize("config", CONFIGS)
def test_an_image_gets_the_same_bits_in_any_company(config: BDMAEConfig) -> None:
    images = mixed(5)
    together = BDMAE(MeanRestorer(), config).purify(images, TRIGGER)
    alone = [BDMAE(MeanRestorer(), config).purify(image, TRIGGER) for image in images]
    for name in ("images", "labels", "queries", "hidden", "scores", "initial_label_scores"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in alone])), name


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("schedule", ["exact", "fast"])
def test_every_number_of_queries_has_a_configuration_that_keeps_within_it(profile: str, schedule: str) -> None:
    for queries in range(1, 60):
        config = scheduled(PROFILES[profile], schedule, queries)  # type: ignore[arg-type]
        assert config.max_queries <= queries
    assert scheduled(PROFILES[profile], schedule, 47) == scheduled(PROFILES[profile], schedule)  # type: ignore[arg-type]
    assert scheduled(PROFILES[profile], schedule).max_queries <= 47  # type: ignore[arg-type]


def test_more_queries_never_buy_fewer_votes() -> None:
    votes = [within(PROFILES["default"], queries).voting_masks for queries in range(1, 48)]
    assert votes == sorted(votes)
    assert votes[0] == 0
    assert votes[-1] == 25


@pytest.mark.parametrize("profile", PROFILES)
def test_fast_recovers_the_labels_that_exact_recovers_with_fewer_queries(profile: str) -> None:
    clean = plain_images(12)
    exact = BDMAE(MeanRestorer(), PROFILES[profile])
    quick = BDMAE(MeanRestorer(), fast(PROFILES[profile]))
    for images in (clean, TRIGGER.stamp(clean)):
        result = quick.purify(images, TRIGGER)
        assert torch.equal(result.labels, colour_labels(clean))
        assert result.queries.sum() < exact.purify(images, TRIGGER).queries.sum()


def test_an_image_whose_masks_never_doubt_its_label_is_settled_at_the_first_look() -> None:
    result = BDMAE(MeanRestorer(), fast(PROFILES["paper"])).purify(torch.full((2, 3, 16, 16), 0.25), colour_labels)
    assert result.queries.tolist() == [11, 11]
    assert torch.equal(result.labels, result.original_labels)


def test_a_glance_finds_a_visible_trigger_before_any_vote() -> None:
    images = TRIGGER.stamp(plain_images(8))
    result = BDMAE(MeanRestorer(), fast(PROFILES["default"])).purify(images, TRIGGER)
    assert (result.queries == 5).any()  # the image, its restoration, three clouds
    assert torch.equal(result.labels, colour_labels(plain_images(8)))


def test_a_single_query_is_spent_on_the_restored_image() -> None:
    asked = []

    def classifier(images: torch.Tensor) -> torch.Tensor:
        asked.append(images)
        return TRIGGER(images)

    images = TRIGGER.stamp(plain_images(4))
    result = BDMAE(MeanRestorer(), within(PROFILES["default"], 1)).purify(images, classifier)
    (seen,) = asked
    assert torch.equal(seen, result.images)
    assert torch.equal(result.labels, result.original_labels)
    assert result.queries.tolist() == [1, 1, 1, 1]
    assert result.hidden is not None
    assert result.hidden.any()


@pytest.mark.parametrize(("schedule", "queries"), [("faster", None), ("exact", 0)])
def test_what_is_no_schedule_is_refused(schedule: str, queries: int | None) -> None:
    with pytest.raises(ConfigError, match="got"):
        scheduled(PROFILES["default"], schedule, queries)  # type: ignore[arg-type]


def test_a_schedule_is_put_on_once() -> None:
    with pytest.raises(ConfigError, match="no schedule yet"):
        fast(fast(PROFILES["default"]))
