import warnings

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, colour_labels, plain_images
from maskrestore import BDMAE
from maskrestore.defense import agreement
from maskrestore.defense.agreement import Agreement
from maskrestore.types import StreamItem


class ChangesItsMind:
    """One more with each call."""

    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return torch.full((len(images),), self.calls)


def items(images: list[Tensor]) -> list[StreamItem]:
    return [StreamItem(id=number, image=image) for number, image in enumerate(images)]


def test_a_classifier_that_changes_its_mind_is_said_once() -> None:
    images = plain_images(2)
    repeated = [images[0], images[1], images[0], images[0], images[1]]
    defense = BDMAE(MeanRestorer(), key="k", chunk_size=1)
    with pytest.warns(UserWarning, match="differently about the very same picture: first 1, now") as said:
        list(defense.purify_stream(items(repeated), ChangesItsMind()))
    assert len(said) == 1


def test_a_classifier_that_keeps_its_mind_is_not_suspected() -> None:
    images = plain_images(3)
    with warnings.catch_warnings(action="error"):
        list(BDMAE(MeanRestorer(), key="k", chunk_size=2).purify_stream(items([*images, *images]), colour_labels))


def test_only_the_latest_pictures_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_MOST", 3)
    seen = Agreement()
    with warnings.catch_warnings(action="error"):
        for content in range(10):
            seen.check(content, 0)
        seen.check(0, 1)  # forgotten
    with pytest.warns(UserWarning, match="first 0, now 1"):
        seen.check(9, 1)
