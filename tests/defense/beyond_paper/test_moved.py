import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, PROFILES, within
from maskrestore.defense.beyond_paper.moved import MovedConfig, moved, settle_moved
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig, try_restoration
from maskrestore.defense.oracle import Oracle, run
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings

TARGET = 9
ALONE = with_settings(
    PROFILES["default"], dict.fromkeys(("squares", "all_to_all", "necessity", "fragile", "whole_image"))
)
UNMOVED = with_settings(ALONE, {"moved": None})
SIDE = 32


def state_of(images: Tensor) -> State:
    state = State(images, [Stream(0, image) for image in images], MeanRestorer(), Oracle(len(images), 47))
    state.begin(torch.zeros(len(images), dtype=torch.int64))
    return state


def pictures(count: int) -> Tensor:
    """One colour each, so that a moved copy shows the same."""
    return plain_images(count, size=SIDE).mean(dim=(2, 3), keepdim=True).expand(-1, -1, SIDE, SIDE).contiguous()


class PlacedClassifier:
    """Answers ``TARGET`` where a faint pattern is in its place, on a picture that is otherwise as it was."""

    def __init__(self, pattern: Tensor) -> None:
        self.pattern = pattern

    def __call__(self, images: Tensor) -> Tensor:
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        share = (centred * self.pattern).sum(dim=(1, 2, 3)) / self.pattern.square().sum()
        return torch.where(share > 0.9, TARGET, colour_labels(images))


PATTERN = 0.1 * (2 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) - 1)


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_trigger_that_works_at_its_place_only_is_found(profile: str) -> None:
    clean = pictures(6)
    stamped = (clean + PATTERN).clamp(0, 1)
    victim = PlacedClassifier(PATTERN)
    off = dict.fromkeys(("squares", "all_to_all", "necessity", "fragile", "whole_image"))
    config = with_settings(PROFILES[profile], off)
    # Random masks break this pattern, too; without their consensus nothing is restored.
    config = with_settings(config, {"scores.consensus": False, "restoration.thresholds": (3.0,)})
    without = BDMAE(MeanRestorer(), with_settings(config, {"moved": None})).purify(stamped, victim)
    assert (without.labels == TARGET).all()
    result = BDMAE(MeanRestorer(), config).purify(stamped, victim)
    assert torch.equal(result.labels, colour_labels(clean))
    assert torch.equal(result.images, stamped.flip(3))
    assert torch.equal(victim(result.images), result.labels)
    spent = {"default": without.queries, "fast": 1 + 5}[profile]
    assert (result.queries - spent == 5).all()


def test_what_changes_its_meaning_in_the_mirror_keeps_its_label() -> None:
    images = pictures(4)
    images[..., :8] *= 0.5  # darker on the left

    def sign(pictures: Tensor) -> Tensor:
        """Left or right, wherever it is."""
        columns = pictures.mean(dim=(1, 2))
        return (columns[:, :16].sum(dim=1) > columns[:, 16:].sum(dim=1)).long()

    result = BDMAE(MeanRestorer(), ALONE).purify(images, sign)
    assert torch.equal(result.labels, sign(images))
    assert torch.equal(result.images, images)
    still = BDMAE(MeanRestorer(), UNMOVED).purify(images, sign)
    assert (result.queries - still.queries == 5).all()


@pytest.mark.parametrize(("votes", "settled"), [(1, False), (2, True), (4, True)])
def test_three_of_five_copies_decide(votes: int, settled: bool) -> None:
    state = state_of(plain_images(1, size=SIDE))
    answers = iter([[7], [[7] * votes + [0] * (4 - votes)]])
    run(
        settle_moved(state, state.all_rows, MovedConfig()),
        MeanRestorer(),
        lambda _: torch.tensor(next(answers)).flatten(),
    )
    assert state.settled.tolist() == [settled]
    assert state.labels.tolist() == [7 if settled else 0]
    assert state.oracle.queries.tolist() == [5]


@pytest.mark.parametrize(
    ("doubted", "changed", "settled"), [(7, 0.72, True), (7, 0.68, False), (6, 1.0, False), (0, 1.0, False)]
)
def test_a_restoration_that_failed_its_tests_is_believed_if_the_mirrored_image_and_the_masks_agree(
    doubted: int, changed: float, settled: bool
) -> None:
    state = state_of(plain_images(1, size=SIDE))
    state.doubted[:] = doubted
    state.note(state.all_rows, changed=torch.tensor([changed]))
    answers = iter([[7], [0, 0, 0, 0]])
    run(settle_moved(state, state.all_rows, MovedConfig()), MeanRestorer(), lambda _: torch.tensor(next(answers)))
    assert state.settled.tolist() == [settled]
    assert state.labels.tolist() == [7 if settled else 0]
    assert state.oracle.queries.tolist() == [1 if settled else 5]


@pytest.mark.parametrize(("mirrored", "settled"), [(7, True), (6, False)])
def test_a_later_restoration_with_the_label_of_the_mirrored_image_needs_no_test(mirrored: int, settled: bool) -> None:
    state = state_of(plain_images(1, size=SIDE))
    state.mirrored[:] = mirrored
    state.note(state.all_rows, changed=torch.ones(1))
    restored, hidden = torch.zeros_like(state.images), torch.ones_like(state.hidden)
    labels = iter([[7], [1, 1, 1]])  # no cloud gets the label of the image
    run(
        try_restoration(state, state.all_rows, restored, hidden, TransferTestConfig()),
        MeanRestorer(),
        lambda _: torch.tensor(next(labels)),
    )
    assert state.settled.tolist() == [settled]
    assert state.labels.tolist() == [7 if settled else 0]
    assert state.doubted.tolist() == [0 if settled else 7]
    assert state.oracle.queries.tolist() == [1 if settled else 4]


def test_an_image_that_stays_the_same_in_the_mirror_costs_one_query() -> None:
    images = pictures(3)
    queries = [BDMAE(MeanRestorer(), config).purify(images, colour_labels).queries for config in (ALONE, UNMOVED)]
    assert (queries[0] - queries[1] == 1).all()


def test_copies_are_moved_and_do_not_depend_on_the_batch() -> None:
    images = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    made = moved(images, 0.125)
    assert made.shape == (3, 4, 3, 16, 24)
    assert torch.equal(made[:, 0, :, 2:, 3:], images.flip(3)[:, :, :-2, :-3])
    assert torch.equal(made[:, 1, :, 2:, 3:], images[:, :, :-2, :-3])
    assert torch.equal(made[:, 2, :, :-2, :-3], images[:, :, 2:, 3:])
    assert torch.equal(made[:, 3, :, 2:, :-3], images[:, :, :-2, 3:])
    assert torch.equal(moved(images[1:2], 0.125), made[1:2])


@pytest.mark.parametrize("limit", [26, 30, 31, 35, 47])
def test_it_spends_what_is_left_and_no_more(limit: int) -> None:
    stamped = (pictures(2) + PATTERN).clamp(0, 1)
    counting = CountingClassifier(PlacedClassifier(PATTERN))
    config = within(PROFILES["default"], limit)
    result = BDMAE(MeanRestorer(), config).purify(stamped, counting)
    assert counting.queries == int(result.queries.sum())
    assert int(result.queries.max()) <= config.max_queries <= limit


def test_photographs_are_not_moved() -> None:
    images = plain_images(1, size=96)
    classifier = PatchTriggerClassifier()
    both = [
        BDMAE(MeanRestorer(), with_settings(PROFILES["default"], {"moved": one})).purify(images, classifier).queries
        for one in (None, MovedConfig())
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("settings", [{"shift": 0.0}, {"shift": 0.5}, {"query_limit": 0}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="moved"):
        MovedConfig(**settings)  # type: ignore[arg-type]
