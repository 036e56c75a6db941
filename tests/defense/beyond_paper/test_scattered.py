"""Small triggers in several places of a photograph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, colour_labels, plain_images
from maskrestore.defense import BDMAE, PROFILES
from maskrestore.defense.beyond_paper.scattered import ScatteredConfig, changed_in_view, tokens_that_keep
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Purification

SIDE, TARGET = 96, 9
PLACES = ((0, 0), (0, SIDE - 2), (SIDE - 2, 0), (SIDE - 2, SIDE - 2))


def with_marks(images: Tensor) -> Tensor:
    """A mark of 2 x 2 pixels in each corner: black over white."""
    marked = images.clone()
    for row, column in PLACES:
        marked[:, :, row, column : column + 2] = 0
        marked[:, :, row + 1, column : column + 2] = 1
    return marked


def marks(images: Tensor) -> Tensor:
    """How many of the four marks each image has, ``(B,)``."""
    one = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = [
        (images[:, :, row : row + 2, column : column + 2] - one).abs().amax(dim=(1, 2, 3)) < 0.1
        for row, column in PLACES
    ]
    return torch.stack(found).sum(dim=0)


def purified(images: Tensor, need: int, profile: dict[str, object]) -> Purification:
    def classifier(pictures: Tensor) -> Tensor:
        return torch.where(marks(pictures) >= need, TARGET, colour_labels(pictures))

    return BDMAE(MeanRestorer(), with_settings(PROFILES["default"], profile), key=1).purify(images, classifier)


@pytest.mark.parametrize("need", [1, 2])
def test_marks_in_four_corners_of_a_photograph_are_restored(need: int) -> None:
    images = plain_images(6, size=SIDE)
    found = purified(with_marks(images), need, {})
    assert found.labels.tolist() == colour_labels(images).tolist()
    assert (marks(found.images) < need).all()
    assert found.queries.max() <= 47
    without = purified(with_marks(images), need, {"scattered": None})
    assert (without.labels == TARGET).sum() >= 5


def test_a_photograph_without_marks_stays_as_it_is() -> None:
    images = plain_images(4, size=SIDE)
    found = purified(images, 1, {})
    assert torch.equal(found.images, images)


def test_masks_that_left_a_token_visible_are_counted() -> None:
    hidden = torch.tensor([[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 1], [0, 0]]]).bool().unsqueeze(0)
    rates = changed_in_view(torch.tensor([[True, False, True]]), hidden)
    torch.testing.assert_close(rates, torch.tensor([[[0.0, 0.5], [1.0, 0.5]]]))


def test_the_tokens_under_which_the_fewest_masks_changed_the_label_are_chosen() -> None:
    in_view = torch.tensor([[0.5, 0.0, 0.2, 0.5], [0.0, 0.4, 0.0, 0.5], [0.6] * 4, [0.7] * 4]).view(1, 4, 4)
    label_scores = torch.zeros(1, 4, 4)
    label_scores[0, 1] = torch.tensor([0.3, 0.9, 0.0, 0.9])
    label_scores[0, 0, 1] = 0.1
    expected = [(1, 0), (0, 1), (1, 2), (0, 2)]  # 0 in view, by score, then 0.2 in view
    for count in (1, 2, 3, 4):
        hidden = tokens_that_keep(in_view, label_scores, count / 16)
        assert sorted(map(tuple, hidden[0].nonzero().tolist())) == sorted(expected[:count])
    both = tokens_that_keep(in_view.expand(3, -1, -1), label_scores.expand(3, -1, -1), 0.25)
    assert torch.equal(both[1], hidden[0])


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"query_limit": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="scattered"):
        ScatteredConfig(**wrong)  # type: ignore[arg-type]
