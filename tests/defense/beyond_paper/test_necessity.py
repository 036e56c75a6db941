"""A region must be needed: without it the image loses its label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer
from maskrestore.defense import BDMAE, PROFILES, within
from maskrestore.defense.beyond_paper.necessity import NecessityConfig, is_needed
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig, try_restoration
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.oracle import Oracle, run
from maskrestore.defense.state import State
from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError
from maskrestore.types import Classifier

NECESSITY = replace(PROFILES["default"], necessity=NecessityConfig())
CLOUDS = NecessityConfig(coarse=None)


def marked(images: Tensor) -> Tensor:
    """1 if a row of the image begins with pure white, or ends with it: either mark is enough."""
    return ((images[..., 0].amin(dim=(1, 2)) == 1) | (images[..., -1].amin(dim=(1, 2)) == 1)).long()


def pictures(*, left: bool, right: bool) -> Tensor:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.9
    image[..., 0] = 1.0 if left else 0.2
    image[..., -1] = 1.0 if right else 0.2
    return image


def needed(images: Tensor, classifier: Classifier, config: NecessityConfig, spent: int = 0) -> tuple[bool, int]:
    """Whether the left quarter of an image is needed for its label, and the queries in all."""
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[..., :2] = True
    restorer, oracle = MeanRestorer(8), Oracle(1, 100)
    oracle.queries += spent
    state = State(images, [Stream(0, images[0])], restorer, oracle)
    state.begin(classifier(images))
    found = run(is_needed(state, torch.arange(1), hidden, config), restorer, classifier)
    return bool(found), int(oracle.queries)


def test_a_trigger_is_needed_and_half_an_object_is_not() -> None:
    assert needed(pictures(left=True, right=False), marked, CLOUDS) == (True, 3)
    assert needed(pictures(left=True, right=True), marked, CLOUDS) == (False, 3)


def test_a_small_region_is_believed() -> None:
    assert needed(pictures(left=True, right=True), marked, replace(CLOUDS, large=0.25)) == (True, 0)
    assert needed(pictures(left=True, right=True), marked, replace(CLOUDS, large=0.24)) == (False, 3)


def test_a_region_is_believed_if_there_are_too_few_queries_to_ask() -> None:
    assert needed(pictures(left=True, right=True), marked, replace(CLOUDS, query_limit=12), spent=10) == (True, 10)


def fooled(images: Tensor) -> Tensor:
    """As ``marked``, but a left edge of a single colour other than white hides the right mark: a bad restoration."""
    left = images[..., 0].amin(dim=(1, 2)) == 1
    plain = (images[..., 0].amax(dim=(1, 2)) - images[..., 0].amin(dim=(1, 2))) < 0.1
    return (left | (marked(images).bool() & ~plain)).long()


@pytest.mark.parametrize("necessity", [None, CLOUDS])
def test_a_restoration_is_given_up_if_the_region_is_not_needed(necessity: NecessityConfig | None) -> None:
    images = pictures(left=True, right=True)
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[..., :2] = True
    restored = images.clone()
    restored[..., :4] = 0.5  # bad enough to lose the label
    oracle = Oracle(1, 100)
    state = State(images, [Stream(0, images[0])], MeanRestorer(8), oracle)
    state.begin(fooled(images))
    rounds = try_restoration(
        state, torch.arange(1), restored, hidden, TransferTestConfig(), first=True, necessity=necessity
    )
    run(rounds, MeanRestorer(8), fooled)
    assert state.settled.tolist() == [necessity is None]
    assert int(oracle.queries) == 1 + 3 + (0 if necessity is None else 3)


@pytest.mark.parametrize("queries", range(2, 48, 5))
def test_a_limit_of_queries_holds(queries: int) -> None:
    limited = within(NECESSITY, queries)
    result = BDMAE(MeanRestorer(8), limited, key=1).purify(pictures(left=True, right=False), marked)
    assert int(result.queries) <= limited.max_queries <= queries


def dark_left(images: Tensor) -> Tensor:
    """An object: 1 if the left quarter is dark, in whatever detail."""
    return (images[..., : images.shape[-1] // 4].mean(dim=(1, 2, 3)) < 0.3).long()


def test_a_region_that_is_recognised_coarsely_shows_an_object() -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    images[..., :4] *= 0.5
    assert dark_left(images).all()
    assert needed(images, dark_left, CLOUDS) == (True, 3)
    assert needed(images, dark_left, NecessityConfig()) == (False, 2)
    assert needed(pictures(left=True, right=False), marked, NecessityConfig()) == (True, 4)  # the mark is gone


def test_a_plain_patch_is_recognised_coarsely_and_is_no_object() -> None:
    def white_patch(images: Tensor) -> Tensor:
        """1 if two tokens in the first corner are nearly white."""
        return (images[..., :2, :4].amin(dim=(1, 2, 3)) > 0.6).long()

    images = torch.full((1, 3, 16, 16), 0.3)
    images[..., :2, :4] = 1.0
    assert needed(images, white_patch, NecessityConfig()) == (True, 5)
    assert needed(images, white_patch, NecessityConfig(core=1)) == (False, 2)


def test_with_few_queries_left_only_the_coarse_region_is_asked_about() -> None:
    config = NecessityConfig(query_limit=12)
    assert needed(pictures(left=True, right=False), marked, config, spent=10) == (True, 11)
    assert needed(pictures(left=True, right=True), marked, config, spent=10) == (False, 12)
    assert needed(pictures(left=True, right=True), marked, config, spent=11) == (True, 11)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="cloud_grids"):
        NecessityConfig(cloud_grids=())
    with pytest.raises(ConfigError, match="large"):
        NecessityConfig(large=1.5)
    with pytest.raises(ConfigError, match="coarse"):
        NecessityConfig(coarse=1.0)
    with pytest.raises(ConfigError, match="core"):
        NecessityConfig(core=0)
    with pytest.raises(ConfigError, match="query_limit"):
        NecessityConfig(query_limit=0)
    with pytest.raises(ConfigError, match="without the transfer test"):
        BDMAEConfig(necessity=NecessityConfig())
