"""Fewer queries and passes, with the same contracts: group testing, and limits for an image."""

import itertools
from dataclasses import replace

import pytest
import torch

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore import BDMAE, PROFILES, BDMAEConfig, CountingClassifier, with_settings
from maskrestore.defense.beyond_paper.all_to_all import PRICE, AllToAllConfig
from maskrestore.defense.beyond_paper.budget import fast, scheduled, within
from maskrestore.defense.beyond_paper.clouds import clouds, pasted
from maskrestore.defense.beyond_paper.group_testing import (
    SMALLEST_GRID,
    GroupTestingConfig,
    _window_that_changes_all,
    covering_squares,
)
from maskrestore.defense.composition import _restore_what_scores_high
from maskrestore.defense.config import LAST_STAGES
from maskrestore.defense.oracle import Oracle, run
from maskrestore.defense.profiles import profile_config
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.imaging.patches import tokens_to_pixels

TRIGGER = PatchTriggerClassifier()


class RecordingRestorer(MeanRestorer):
    """Keeps the squares that group testing hides together in an image: ``(K, g, g)`` each."""

    def __init__(self, grid: int) -> None:
        super().__init__(grid)
        self.hidden_together: list[torch.Tensor] = []

    def restore(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 4 and hidden.shape[1] <= 5:  # else random masks
            self.hidden_together.extend(hidden)
        return super().restore(images, hidden)


CONFIGS = [
    pytest.param(within(PROFILES[profile], queries), id=f"{profile}-{queries}")
    for profile, queries in itertools.product(PROFILES, (47, 42, 30, 28, 20, 8, 4, 2, 1))
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
def test_an_image_gets_the_same_bits_in_any_batch(config: BDMAEConfig) -> None:
    images = mixed(5)
    together = BDMAE(MeanRestorer(), config).purify(images, TRIGGER)
    alone = [BDMAE(MeanRestorer(), config).purify(image, TRIGGER) for image in images]
    for name in ("images", "labels", "queries", "hidden", "scores", "initial_label_scores"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in alone])), name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_number_of_queries_has_a_configuration_that_keeps_within_it(profile: str) -> None:
    for queries in range(1, 60):
        assert within(PROFILES[profile], queries).max_queries <= queries
    assert within(PROFILES[profile], 47) == PROFILES[profile]


@pytest.mark.parametrize("profile", ["fast", "paper-fast"])
def test_group_testing_gives_way_only_where_a_round_of_masks_does_not_fit_beside_it(profile: str) -> None:
    quick = PROFILES[profile]
    fits = [within(quick, queries) for queries in range(1, 48)]
    kept = [config.group_testing is not None for config in fits]
    assert kept == sorted(kept)  # none up to some limit, and group testing from there on
    assert kept.index(True) + 1 == 29
    for queries, config in enumerate(fits, start=1):
        if config.group_testing is not None:
            assert config.masks.max_queries >= config.masks.per_round
        else:
            assert config == within(replace(quick, group_testing=None), queries)


def test_fast_leaves_no_refinement_where_the_masks_take_all_queries() -> None:
    assert fast(with_settings(BDMAEConfig(), {"masks.rounds": 8})).refinement is None


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_the_deprecated_schedules_are_profiles(profile: str) -> None:
    quick = PROFILES["fast" if profile == "default" else "paper-fast"]
    assert scheduled(profile_config(profile), "fast") == fast(PROFILES[profile]) == quick
    assert scheduled(profile_config(profile), "exact") == scheduled(PROFILES[profile], None) == PROFILES[profile]


@pytest.mark.parametrize("profile", ["default", "paper"])
@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5, 7, 8])
def test_small_grids_are_purified_without_asking_twice_about_a_region(profile: str, grid: int) -> None:
    restorer = RecordingRestorer(grid)
    regions = with_settings(fast(PROFILES[profile]), dict.fromkeys(("moved", "whole_image", "fragile")))
    result = BDMAE(restorer, regions).purify(mixed(4)[:2], TRIGGER)
    assert (result.queries <= regions.max_queries).all()
    if grid >= SMALLEST_GRID:
        assert restorer.hidden_together
        for hidden in restorer.hidden_together:
            assert len(hidden.flatten(1).unique(dim=0)) == len(hidden)
    else:
        assert (result.queries >= 1 + 25).all()


def test_more_queries_never_buy_fewer_questions_about_masks() -> None:
    asked = [within(PROFILES["default"], queries).masks.max_queries for queries in range(1, 48)]
    assert asked == sorted(asked)
    assert asked[0] == 0
    assert asked[-1] == 25


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_fast_recovers_the_labels_that_exact_recovers_with_fewer_queries(profile: str) -> None:
    clean = plain_images(12)
    exact = BDMAE(MeanRestorer(), PROFILES[profile])
    quick = BDMAE(MeanRestorer(), fast(PROFILES[profile]))
    for images in (clean, TRIGGER.stamp(clean)):
        result = quick.purify(images, TRIGGER)
        assert torch.equal(result.labels, colour_labels(clean))
        assert result.queries.sum() < exact.purify(images, TRIGGER).queries.sum()


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_an_image_whose_label_nothing_changes_costs_few_queries(profile: str) -> None:
    images = torch.full((2, 3, 16, 16), 0.25)
    result = BDMAE(MeanRestorer(), fast(PROFILES[profile])).purify(images, colour_labels)
    more = 2 if profile == "default" else 0  # two pictures with several changes each
    assert result.queries.tolist() == [6 + more] * 2
    assert torch.equal(result.labels, result.original_labels)
    assert torch.equal(result.images, images)


def test_the_part_of_a_window_that_holds_the_trigger_is_restored_and_nothing_else() -> None:
    clean = plain_images(6)
    images = TRIGGER.stamp(clean)
    result = BDMAE(MeanRestorer(), fast(PROFILES["default"])).purify(images, TRIGGER)
    assert torch.equal(result.labels, colour_labels(clean))
    assert (result.queries <= 1 + 5 + 2 + 3 + 4 + 4 * 3).all()
    assert result.hidden is not None
    pixels = tokens_to_pixels(result.hidden, 16, 16)
    assert pixels[..., 1:4, 1:4].any(dim=(1, 2, 3)).all()  # the patch is there
    assert not pixels[..., 8:, 8:].any()
    assert (result.images != images).any(dim=(1, 2, 3)).all()


def test_a_trigger_larger_than_a_part_is_left_to_the_masks() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2.0

    def by_a_third(images: torch.Tensor) -> torch.Tensor:
        """The target while a third of a chessboard of 8 x 8 pixels is there: in any half, not outside the window."""
        same = (images[..., :8, :8] - board).abs() < 0.1
        return torch.where(same.float().mean(dim=(1, 2, 3)) > 1 / 3, 9, colour_labels(images[..., 8:, 8:]))

    clean = plain_images(4)
    images = clean.clone()
    images[..., :8, :8] = board
    regions = with_settings(PROFILES["fast"], dict.fromkeys(("moved", "whole_image", "fragile")))
    result = BDMAE(MeanRestorer(), regions).purify(images, by_a_third)
    assert torch.equal(result.labels, colour_labels(clean[..., 8:, 8:]))
    assert (result.queries > 25).all()


def test_what_is_asked_before_the_masks_leaves_them_enough_or_there_are_none() -> None:
    """A classifier that answers by chance: every stage finds something to ask about."""
    images = plain_images(8)

    def restless(pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.double().sum(dim=(1, 2, 3)) * 1e4).long() % 3

    compared = {"transfer_test.comparison": True, "all_to_all": None}
    for config in (PROFILES["fast"], with_settings(PROFILES["fast"], compared)):
        for key in range(6):
            result = BDMAE(MeanRestorer(), config, key=key).purify(images, restless)
            assert (result.queries <= config.max_queries).all()


def test_content_that_decides_the_label_is_no_trigger() -> None:
    def by_content(images: torch.Tensor) -> torch.Tensor:
        """Like a digit: dark pixels in the first corner of a bright picture make it class 1."""
        dark = images[..., :4, :4].mean(dim=(1, 2, 3)) < 0.3
        return (dark & (images.mean(dim=(1, 2, 3)) > 0.6)).long()

    images = torch.full((2, 3, 16, 16), 0.9)
    images[..., :4, :4] = 0.1
    result = BDMAE(MeanRestorer(), replace(PROFILES["fast"], moved=None)).purify(images, by_content)
    assert result.labels.tolist() == result.original_labels.tolist() == [1, 1]
    assert torch.equal(result.images, images)


@pytest.mark.parametrize("grid", [1, 2, 4, 5, 8, 14, 16, 32])
@pytest.mark.parametrize(("count", "overlap"), [(3, 1), (2, 2)])
def test_stretches_cover_all_places_and_every_short_run_lies_in_one(grid: int, count: int, overlap: int) -> None:
    side, places = covering_squares(grid, count, overlap)
    stretches = [set(range(place, place + side)) for place in places]
    assert set.union(*stretches) == set(range(grid))
    run = min(overlap + 1, grid)
    for first in range(grid - run + 1):
        assert any(set(range(first, first + run)) <= stretch for stretch in stretches)


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


@pytest.mark.parametrize("clouds", [(20,), (20, 12)])
@pytest.mark.parametrize("limit", range(20, 32))
def test_parts_of_an_all_to_all_trigger_keep_to_the_limit(clouds: tuple[int, ...], limit: int) -> None:
    grids = {"group_testing.cloud_grids": clouds, "transfer_test.cloud_grids": clouds}
    config = within(with_settings(PROFILES["fast"], grids), limit)
    # One window changes the label of its group, of the image and of all copies; then each part is asked about.
    window = [0] + [1, 1, 0, 0, 0] + [1] * 4 + [1] * len(clouds) + [2] + [1, 2, 2, 2] + [1] + [0, 0] + [1, 1]
    answers = itertools.chain(window, itertools.repeat(1))
    counting = CountingClassifier(lambda images: torch.tensor([next(answers) for _ in images]))
    result = BDMAE(MeanRestorer(), config).purify(plain_images(1), counting)
    assert counting.queries == result.queries.item() <= limit


def test_a_single_query_needs_no_other_setting() -> None:
    config = with_settings(PROFILES["default"], {"restoration.single_query": True})
    result = BDMAE(MeanRestorer(), config).purify(TRIGGER.stamp(plain_images(2)), TRIGGER)
    assert result.queries.tolist() == [1, 1]


def test_few_masks_are_kept_where_they_fit() -> None:
    config = with_settings(PROFILES["default"], {"masks.asked": 3})
    assert within(config, 8).masks == config.masks
    assert within(config, 8).restoration.attempts == config.restoration.attempts[:1]


def test_nothing_is_asked_about_an_attempt_that_restores_nothing() -> None:
    """Of a photograph with 16 tokens the second attempt, 3 % of them, restores none."""
    config = with_settings(PROFILES["default"], dict.fromkeys(LAST_STAGES))
    asked = list[torch.Tensor]()

    def classifier(images: torch.Tensor) -> torch.Tensor:
        asked.append(images)
        return colour_labels(images)

    images = plain_images(2, size=96)
    BDMAE(MeanRestorer(4), config).purify(images, classifier)
    assert not any(torch.equal(one, image) for batch in asked[1:] for one in batch for image in images)


def test_no_query_and_an_unknown_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_queries must be at least 1, got 0"):
        within(PROFILES["default"], 0)
    with pytest.raises(ConfigError, match="got 'faster'"):
        scheduled(PROFILES["default"], "faster")


def test_group_testing_takes_the_clouds_of_the_transfer_test() -> None:
    config = with_settings(PROFILES["default"], {"transfer_test.cloud_grids": (4, 8)})
    assert fast(config).group_testing == GroupTestingConfig(cloud_grids=(4, 8))
    assert fast(PROFILES["paper"]).group_testing == GroupTestingConfig()


def to_the_next_class(images: torch.Tensor) -> torch.Tensor:
    labels = colour_labels(images[..., 8:, 8:])  # far from the patch, which else decides on a picture of mean colour
    return torch.where(TRIGGER(images) == TRIGGER.target, (labels + 1) % 8, labels)


def test_a_trigger_with_a_target_for_each_class_is_found_by_group_testing_too() -> None:
    clean = plain_images(6)
    images = TRIGGER.stamp(clean)
    for profile in ("default", "fast"):
        result = BDMAE(MeanRestorer(), replace(PROFILES[profile], moved=None)).purify(images, to_the_next_class)
        assert torch.equal(result.labels, colour_labels(clean))
    blind = replace(PROFILES["fast"], all_to_all=None, moved=None)
    assert (BDMAE(MeanRestorer(), blind).purify(images, to_the_next_class).labels != colour_labels(clean)).any()


@pytest.mark.parametrize(("spent", "found"), [(0, [True, False]), (47 - 1 - 2 - PRICE + 1, [False, False])])
def test_of_two_windows_the_one_with_the_trigger_is_found_if_it_can_be_paid(spent: int, found: list[bool]) -> None:
    images = TRIGGER.stamp(plain_images(4))
    oracle = Oracle(4, 47)
    oracle.queries += spent
    state = State(images, [Stream(0, image) for image in images], MeanRestorer(), oracle)
    state.begin(to_the_next_class(images))
    windows = torch.zeros(2, state.grid, state.grid, dtype=torch.bool)
    windows[0, :3, :3] = windows[1, 3:4, :2] = True  # the trigger, and a window that changed the label by chance
    cloud = clouds(images, state.streams(state.all_rows), (20,))
    both = to_the_next_class(pasted(images, windows.any(dim=0).expand(4, -1, -1), cloud)[:, 0])
    acting = torch.ones(4, 2, dtype=torch.bool)
    stage = _window_that_changes_all(state, state.all_rows, acting, windows, AllToAllConfig(), cloud=(20, both))
    assert run(stage, MeanRestorer(), to_the_next_class).tolist() == [found] * 4
    assert int(oracle.queries.max()) <= 47


@pytest.mark.parametrize(("spent", "calls"), [(30, 8), (36, 6)])
def test_a_second_attempt_that_cannot_be_paid_is_not_made(spent: int, calls: int) -> None:
    """What the tests of the first attempt ask comes on top of group testing."""
    # The restored image, clouds with the region, a cloud without it, the coarse region, copies without it and with it:
    # no trigger. Then the restored image and the clouds of the second attempt.
    answers = iter([[1], [2, 2, 2], [3], [1], [5, 5], [5, 5], [1], [2, 2, 2]])
    asked = []

    def scripted(pictures: torch.Tensor) -> torch.Tensor:
        asked.append(len(pictures))
        return torch.tensor(next(answers))

    image, config = mixed(1), PROFILES["default"].in_force(photographs=False)
    oracle = Oracle(1, 47)
    oracle.queries += spent
    state = State(image, [Stream(0, image[0])], MeanRestorer(), oracle)
    scores = torch.zeros(1, 8, 8)
    scores[0, 0, :4], scores[0, 1, :4] = 0.9, 0.3  # the second attempt restores the latter, too
    run(_restore_what_scores_high(state, state.all_rows, scores, config), MeanRestorer(), scripted)
    assert len(asked) == calls
    assert int(oracle.queries) <= 47
