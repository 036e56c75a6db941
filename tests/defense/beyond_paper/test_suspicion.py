"""Suspicion from the evidence of the stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore import BDMAE, Purification, within
from maskrestore.defense.beyond_paper.suspicion import WEIGHTS, suspicion
from maskrestore.defense.profiles import PROFILES

TRIGGER = PatchTriggerClassifier()


def purified(images: Tensor, profile: str = "default", queries: int = 47) -> Purification:
    return BDMAE(MeanRestorer(), within(PROFILES[profile], queries), key=1).purify(images, TRIGGER)


def test_suspicion_is_a_probability_and_grows_with_what_was_accepted() -> None:
    none = {name: torch.zeros(2) for name in WEIGHTS}
    found = suspicion(none | {"accepted": torch.tensor([0.0, 1.0])})
    assert found.dtype == torch.float32
    assert 0 < found[0] < 0.5 < found[1] < 1


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_trigger_that_was_removed_is_suspicious_and_its_answer_is_not_in_doubt(profile: str) -> None:
    clean = plain_images(4)
    stamped, plain = purified(TRIGGER.stamp(clean), profile), purified(clean, profile)
    assert torch.equal(stamped.labels, colour_labels(clean))
    assert stamped.suspicion is not None
    assert plain.suspicion is not None
    assert stamped.suspicion.min() > 0.5 > plain.suspicion.max()
    assert not stamped.doubtful(0.5).any()
    assert not plain.doubtful(0.5).any()


def test_a_change_that_nothing_tested_is_in_doubt() -> None:
    result = purified(TRIGGER.stamp(plain_images(4)), "paper")
    changed = result.labels != result.original_labels
    assert changed.any()
    assert result.doubtful(0.5)[changed].all()


def test_suspicion_has_the_same_bits_in_any_batch() -> None:
    images = torch.cat([TRIGGER.stamp(plain_images(3)), plain_images(4)])
    together = purified(images, "default").suspicion
    alone = torch.cat([s for one in images.split(1) if (s := purified(one, "default").suspicion) is not None])
    assert together is not None
    assert torch.equal(together, alone)


def test_a_single_query_tells_nothing() -> None:
    assert purified(plain_images(2), queries=1).suspicion is None
