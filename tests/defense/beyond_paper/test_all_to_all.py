import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, PROFILES
from maskrestore.defense.beyond_paper.all_to_all import PRICE, AllToAllConfig, changes_all, copies
from maskrestore.defense.beyond_paper.clouds import clouds
from maskrestore.defense.oracle import Oracle, run
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Classifier

TRIGGER = PatchTriggerClassifier()
CONFIG = AllToAllConfig()
GRID = 8


def all_to_all(images: Tensor) -> Tensor:
    """The label after its own where the patch is, among eight."""
    return (colour_labels(images[..., 8:, 8:]) + (TRIGGER(images) == TRIGGER.target)) % 8


def asked(
    images: Tensor,
    classifier: Classifier,
    config: AllToAllConfig,
    spent: int = 0,
    on_cloud: Classifier = all_to_all,
) -> tuple[Tensor, Tensor]:
    """The answer about the first corner of each image, and the queries for it.

    spent: queries before. on_cloud: what has told the label of the cloud with the region.
    """
    count = len(images)
    hidden = torch.zeros(count, GRID, GRID, dtype=torch.bool)
    hidden[:, :2, :2] = True
    restorer = MeanRestorer(GRID)
    oracle = Oracle(count, 47)
    oracle.queries += spent
    state = State(images, [Stream(0, image) for image in images], restorer, oracle)
    state.begin(classifier(images))
    (cloud,) = clouds(images, state.streams(state.all_rows), (20,)).unbind(dim=1)
    stage = changes_all(
        state,
        state.all_rows,
        hidden,
        restorer.restore(images, hidden),
        config,
        cloud=(20, on_cloud(torch.where(tokens_to_pixels(hidden, 16, 16), images, cloud))),
    )
    return run(stage, restorer, classifier), oracle.queries - spent


def test_a_trigger_changes_the_label_of_all_pictures() -> None:
    counting = CountingClassifier(all_to_all)
    found, queries = asked(TRIGGER.stamp(plain_images(4)), counting, CONFIG)
    assert found.all()
    assert queries.tolist() == [PRICE] * 4
    assert counting.queries == 4 * (1 + PRICE)


def test_what_does_not_change_a_cloud_is_not_asked_about_again() -> None:
    found, queries = asked(plain_images(4), all_to_all, CONFIG)
    assert not found.any()
    assert queries.tolist() == [1] * 4


def test_what_changes_a_cloud_and_not_the_copies_is_no_trigger() -> None:
    images = TRIGGER.stamp(plain_images(4))

    def own_images_and_clouds(pictures: Tensor) -> Tensor:
        """The trigger, on these very images and on rough pictures; else the label without it."""
        rough = pictures[..., 8:, 8:].diff(dim=3).abs().mean(dim=(1, 2, 3)) > 0.2
        own = (pictures.unsqueeze(1) == images).flatten(2).all(dim=2).any(dim=1)
        return torch.where(rough | own, all_to_all(pictures), colour_labels(pictures[..., 8:, 8:]))

    found, queries = asked(images, own_images_and_clouds, CONFIG)
    assert not found.any()
    assert queries.tolist() == [PRICE] * 4


def test_a_digit_that_is_read_coarsely_is_no_trigger() -> None:
    def digit(images: Tensor) -> Tensor:
        """The next label where the first corner is dark, in whatever detail."""
        dark = images[..., :4, :4].mean(dim=(1, 2, 3)) < 0.3
        return (colour_labels(images[..., 8:, 8:]) + dark) % 8

    images = plain_images(4)
    images[..., :4, :4] *= 0.2
    found, queries = asked(images, digit, CONFIG, on_cloud=digit)
    assert not found.any()
    assert queries.tolist() == [2] * 4


def test_nothing_is_asked_that_cannot_be_paid() -> None:
    found, queries = asked(TRIGGER.stamp(plain_images(2)), all_to_all, CONFIG, spent=47 - PRICE + 1)
    assert not found.any()
    assert queries.tolist() == [0, 0]


def test_the_default_finds_a_target_for_each_class_only_with_this_stage() -> None:
    clean = plain_images(6)
    images = TRIGGER.stamp(clean)
    default = with_settings(PROFILES["default"], {"moved": None})
    without = with_settings(default, {"all_to_all": None, "transfer_test.comparison": False})
    assert torch.equal(BDMAE(MeanRestorer(), default).purify(images, all_to_all).labels, colour_labels(clean))
    assert (BDMAE(MeanRestorer(), without).purify(images, all_to_all).labels != colour_labels(clean)).all()


def test_copies_are_noisy_and_shifted_and_do_not_depend_on_the_batch() -> None:
    images = plain_images(3)
    streams = [Stream(0, image) for image in images]
    made = copies(images, streams, 0.1)
    assert made.shape == (3, 2, *images.shape[1:])
    assert made.min() >= 0
    assert made.max() <= 1
    assert (made[:, 0] - images).std() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(made[:, 1, ..., 1:], images[..., :-1])
    assert torch.equal(copies(images[1:2], streams[1:2], 0.1), made[1:2])


@pytest.mark.parametrize("settings", [{"noise": 0.0}, {"coarse": 1.0}, {"query_limit": 0}])
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="all_to_all"):
        AllToAllConfig(**settings)  # type: ignore[arg-type]
