"""What is different for photographs, and that small images do not notice."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.defense import BDMAE
from maskrestore.defense.beyond_paper.budget import within
from maskrestore.defense.beyond_paper.clouds import CLOUD_GRIDS
from maskrestore.defense.beyond_paper.group_testing import GROUPS
from maskrestore.defense.beyond_paper.photographs import PhotographsConfig, masks_of_attempt, needs_coarse_test
from maskrestore.defense.beyond_paper.squares import SquaresConfig, hide_squares
from maskrestore.defense.beyond_paper.transfer import Attempt, TransferTestConfig, transfer_test
from maskrestore.defense.oracle import Oracle, Restore, run
from maskrestore.defense.profiles import PROFILES
from maskrestore.defense.restoration import RestorationConfig, adaptive_masks
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Classifier

SIDE = 96
CLOUDS = len(CLOUD_GRIDS)
TARGET = 9


def test_attempts_restore_a_smaller_share_of_photographs_only() -> None:
    usual, config = RestorationConfig(max_restored=0.25, attempts=(0.0, 0.2)), PhotographsConfig(max_restored=0.03)
    scores = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masks_of_attempt(scores, usual, 1, None), adaptive_masks(scores + 0.2, usual))
    hidden = masks_of_attempt(scores, usual, 1, config)
    assert hidden.shape == (3, 1, 14, 14)
    counts = hidden.flatten(1).sum(dim=1)
    assert ((counts > 0) & (counts <= 5)).all()  # 3 % of 196
    assert (scores[hidden[:, 0]].min() > scores[~hidden[:, 0]].max() - 0.02).all()


def test_the_first_attempt_on_photographs_restores_the_block_around_the_highest_score() -> None:
    scores = torch.zeros(3, 14, 14)
    scores[0, 5, 6] = scores[1, 0, 13] = scores[2, 13, 4] = 0.9
    hidden = masks_of_attempt(scores, RestorationConfig(), 0, PhotographsConfig(block=3))
    expected = torch.zeros(3, 1, 14, 14, dtype=torch.bool)
    expected[0, 0, 4:7, 5:8] = True
    expected[1, 0, :2, 12:] = True
    expected[2, 0, 12:, 3:6] = True
    assert torch.equal(hidden, expected)


def test_large_regions_of_photographs_are_tested() -> None:
    hidden = torch.zeros(3, 10, 10, dtype=torch.bool)
    hidden[1, 0, :5] = True  # 5 %
    hidden[2, 0, :6] = True
    config = PhotographsConfig(small_region=0.05)
    assert needs_coarse_test(hidden, config).tolist() == [False, False, True]
    assert not needs_coarse_test(hidden, None).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": 2},
        {"block": 0},
        {"max_restored": 2.0},
        {"square_margin": -0.1},
        {"cells": 0},
        {"small_region": -0.1},
        {"square_side": 0.0},
        {"square_count": 0},
        {"filters": ()},
        {"filters": ("sharp",)},
        {"filter_grids": ()},
        {"group_grids": ()},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="photographs"):
        PhotographsConfig(**wrong)  # type: ignore[arg-type]


def stripes(images: Tensor) -> Tensor:
    """Black box: ``TARGET`` where the upper left quarter has stripes one pixel wide. Nothing coarse has."""
    corner = images[..., : SIDE // 2, : SIDE // 2]
    return torch.where(corner.diff(dim=3).abs().mean(dim=(1, 2, 3)) > 0.4, TARGET, colour_labels(images))


def brightness(images: Tensor) -> Tensor:
    """Black box: ``TARGET`` where the upper left quarter is bright, however coarse it is: it shows an object."""
    corner = images[..., : SIDE // 2, : SIDE // 2]
    return torch.where(corner.mean(dim=(1, 2, 3)) > 0.8, TARGET, colour_labels(images))


def striped() -> Tensor:
    images = torch.full((2, 3, SIDE, SIDE), 0.3)
    images[..., : SIDE // 2, : SIDE // 2] = torch.tensor([0.0, 1.0]).repeat(SIDE // 4)
    return images


def bright() -> Tensor:
    images = torch.full((2, 3, SIDE, SIDE), 0.3)
    images[..., : SIDE // 2, : SIDE // 2] = 1.0
    return images


def believed(images: Tensor, classifier: Classifier, config: PhotographsConfig | None) -> tuple[list[bool], list[int]]:
    """Test the restoration of the upper left quarter: whether it is believed, and the queries of each image."""
    restorer = MeanRestorer(8)
    hidden = torch.zeros(len(images), 8, 8, dtype=torch.bool)
    hidden[:, :4, :4] = True
    restored = restorer.restore(images, hidden)
    oracle = Oracle(len(images), 100)
    state = State(images, [Stream(0, image) for image in images], restorer, oracle)
    state.begin(classifier(images))
    assert state.original.tolist() == [TARGET] * len(images)
    attempt = Attempt(restored=restored, hidden=hidden, labels=classifier(restored))
    rounds = transfer_test(
        state,
        torch.arange(len(images)),
        attempt,
        grids=CLOUD_GRIDS,
        enough=len(CLOUD_GRIDS),
        compare=False,
        photographs=config,
    )
    return run(rounds, restorer, classifier).tolist(), oracle.queries.tolist()


def test_an_object_is_told_from_a_trigger_by_its_coarse_picture() -> None:
    config = PhotographsConfig(cells=12)
    # Both give their label to clouds, so the transfer test alone believes both.
    assert believed(striped(), stripes, None) == ([True, True], [CLOUDS] * 2)
    assert believed(bright(), brightness, None) == ([True, True], [CLOUDS] * 2)
    # The coarse picture takes the place of a cloud.
    assert believed(striped(), stripes, config) == ([True, True], [CLOUDS] * 2)
    assert believed(bright(), brightness, config) == ([False, False], [1, 1])


def test_squares_of_photographs_are_larger_and_nearly_as_suspicious_as_the_first() -> None:
    image_scores = torch.zeros(1, 8, 8)
    image_scores[0, :4, :4] = 0.9
    image_scores[0, 4:, 4:] = 0.8
    # tokens that each square restores; the second one scores a little less
    for photographs, shown in (
        (PhotographsConfig(square_margin=0.02), [16]),
        (PhotographsConfig(square_margin=0.1), [16, 16]),
        (None, [9, 9]),
    ):
        images, asked = torch.full((1, 3, SIDE, SIDE), 0.3), list[Tensor]()
        state = State(images, [Stream(0, images[0])], MeanRestorer(8), Oracle(1, 100))
        state.begin(torch.tensor([0]))

        rounds = hide_squares(
            state,
            torch.tensor([0]),
            image_scores,
            torch.tensor([1.0]),
            config=SquaresConfig(count=2, side=0.375),
            test=TransferTestConfig(),
            photographs=photographs,
        )
        request = next(rounds)
        answers = torch.zeros(1, dtype=torch.int64)  # the label never changes: no square is accepted
        try:
            while True:
                if isinstance(request, Restore):
                    asked.append(request.hidden)
                    request = rounds.send(images)
                else:
                    request = rounds.send(answers)
        except StopIteration:
            pass
        assert [int(hidden.sum()) for hidden in asked] == shown


@pytest.mark.parametrize(("photographs", "tokens"), [(PhotographsConfig(), 9), (None, 16)])
def test_group_testing_restores_a_smaller_part_of_a_photograph(
    photographs: PhotographsConfig | None, tokens: int
) -> None:
    classifier = PatchTriggerClassifier(row=18, column=20)  # in one window only
    images = classifier.stamp(torch.full((1, 3, SIDE, SIDE), 0.3))
    config = dataclasses.replace(PROFILES["fast"], photographs=photographs)
    found = BDMAE(MeanRestorer(12), config, key="key").purify(images, classifier)
    assert found.labels.tolist() == [0]
    assert found.hidden is not None
    assert config.group_testing is not None
    assert found.hidden.flatten(1).sum(dim=1).tolist() == [tokens]
    assert found.queries.item() <= config.group_testing.max_queries


def test_a_trigger_that_the_masks_miss_is_found_by_group_testing() -> None:
    trigger = PatchTriggerClassifier(row=18, column=20)
    clean = plain_images(4, size=SIDE)
    clean[..., 64:80, 64:80] = torch.tensor([0.0, 1.0]).repeat(8)  # restored worse than the trigger
    images = trigger.stamp(clean)

    def unsure(pictures: Tensor) -> Tensor:
        """A picture of which most is hidden looks like the target, too."""
        flat = (pictures.diff(dim=3).abs().amax(dim=1) < 1e-6).float().mean(dim=(1, 2))
        return torch.where(flat > 0.5, trigger.target, trigger(pictures))

    groups_first = with_settings(PROFILES["default"], {"squares": None, "whole_image": None})
    assert (unsure(images) == trigger.target).all()
    found = BDMAE(MeanRestorer(12), groups_first, key="key").purify(images, unsure)
    assert torch.equal(found.labels, colour_labels(clean))
    masks_only = with_settings(groups_first, {"photographs.group_grids": None})
    assert (BDMAE(MeanRestorer(12), masks_only, key="key").purify(images, unsure).labels == trigger.target).all()


def test_photographs_in_which_group_testing_finds_nothing_get_masks_all_the_same() -> None:
    images = plain_images(3, size=SIDE)
    default = PROFILES["default"]
    ours = BDMAE(MeanRestorer(), default, key="key").purify(images, colour_labels)
    masks_only = with_settings(default, {"photographs.group_grids": None})
    plain = BDMAE(MeanRestorer(), masks_only, key="key").purify(images, colour_labels)
    assert torch.equal(ours.queries, plain.queries + len(GROUPS))
    assert torch.equal(ours.labels, plain.labels)
    assert torch.equal(ours.scores, plain.scores)


@pytest.mark.parametrize("limit", [47, 40, 32, 28, 20, 8])
def test_photographs_need_no_more_queries_than_allowed(limit: int) -> None:
    trigger = PatchTriggerClassifier(row=40, column=40)
    images = torch.cat([plain_images(2, size=SIDE), trigger.stamp(plain_images(2, size=SIDE))])
    config = within(PROFILES["default"], limit)
    assert int(BDMAE(MeanRestorer(), config, key="key").purify(images, trigger).queries.max()) <= limit


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_small_images_get_the_same_bits_without_it(profile: str) -> None:
    classifier = PatchTriggerClassifier()
    images = plain_images(4)
    images[:2] = classifier.stamp(images[:2])
    config = PROFILES[profile]
    assert config.photographs is not None
    ours = BDMAE(MeanRestorer(), config, key="key").purify(images, classifier)
    plain = BDMAE(MeanRestorer(), dataclasses.replace(config, photographs=None), key="key").purify(images, classifier)
    for field in dataclasses.fields(ours):
        one, other = getattr(ours, field.name), getattr(plain, field.name)
        assert (one is None and other is None) or torch.equal(one, other), field.name
    assert (ours.labels[:2] != classifier.target).all()
