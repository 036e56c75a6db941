from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fakes import PatchTriggerClassifier, plain_images
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.baselines.base import majority
from maskrestore.lab.baselines.patchcleanser import (
    PatchCleanser,
    PatchCleanserConfig,
    certify,
    covers,
    mask_set,
    two_mask_votes,
)

SIDE, MASKS = 8, 4


@dataclass
class TableClassifier:
    """Knows which masks lie over a white image and answers what its table says. ``table``: ``(K, K)`` symmetric."""

    table: Tensor
    unmasked: int = 7

    def __call__(self, images: Tensor) -> Tensor:
        hidden = mask_set(SIDE, SIDE, patch=(1, 1), per_side=2)
        labels = []
        for image in images[:, 0]:
            under = [index for index in range(MASKS) if (image[hidden[index]] < 1).all()]
            labels.append(int(self.table[under[0], under[-1]]) if under else self.unmasked)
        return torch.tensor(labels)


def algorithm_1(table: list[list[int]], fallback: str) -> tuple[int, int]:
    """Answer and queries by the published algorithm, written down in the plainest way."""
    first = [table[i][i] for i in range(MASKS)]
    asked, seconds = 1 + MASKS, []
    counts = Counter(first)
    winner = max(counts, key=lambda label: (counts[label], label))
    for i in range(MASKS):
        if first[i] != winner:
            second = [table[i][j] for j in range(MASKS) if j != i]
            asked += len(second)
            seconds += second
            if all(label == first[i] for label in second):
                return first[i], asked
    if fallback != "first-round" and len(counts) > 1:
        counts = Counter(seconds if fallback == "second-round" else [*first, *seconds])
        winner = max(counts, key=lambda label: (counts[label], label))
    return winner, asked


def test_mask_set_of_the_public_code() -> None:
    # 32 pixels, patches of 5: stride ceil(28 / 6) = 5, masks of 5 + 5 - 1 = 9 pixels, the last one at the border.
    hidden = PatchCleanserConfig().masks(32, 32)
    assert hidden.shape == (36, 32, 32)
    tops = [int(mask.any(1).nonzero()[0]) for mask in hidden[::6]]
    assert tops == [0, 5, 10, 15, 20, 23]
    assert {int(mask.sum()) for mask in hidden} == {81}
    # 224 pixels, patches of 32: stride 33, masks of 64.
    large = PatchCleanserConfig().masks(224, 224)
    assert [int(mask.any(0).nonzero()[0]) for mask in large[:6]] == [0, 33, 66, 99, 132, 160]
    assert {int(mask.sum()) for mask in large} == {64 * 64}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), per_side=st.integers(2, 7))
def test_mask_set_covers_every_position_of_its_patch(data: st.DataObject, per_side: int) -> None:
    height, width = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 30))
    patch = (data.draw(st.integers(1, height - 1)), data.draw(st.integers(1, width - 1)))
    hidden = mask_set(height, width, patch=patch, per_side=per_side)
    assert len(hidden) <= per_side**2
    assert covers(hidden, patch)
    for top in range(height - patch[0] + 1):  # the same, without ``covers``
        for left in range(width - patch[1] + 1):
            window = hidden[:, top : top + patch[0], left : left + patch[1]]
            assert window.flatten(1).all(dim=1).any()


def test_larger_patches_and_missing_masks_are_not_covered() -> None:
    hidden = PatchCleanserConfig().masks(32, 32)
    assert covers(hidden, (5, 5))
    assert not covers(hidden, (6, 5))
    assert not covers(torch.cat([hidden[:14], hidden[15:]]), (5, 5))


@settings(max_examples=150, deadline=None)
@given(
    diagonal=st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=MASKS, max_size=MASKS),
    upper=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    agreeing=st.booleans(),
    fallback=st.sampled_from(["first-round", "all", "second-round"]),
)
def test_double_masking_is_algorithm_1(diagonal: list[int], upper: list[int], agreeing: bool, fallback: str) -> None:
    table = torch.diag(torch.tensor(diagonal))
    rows, columns = torch.triu_indices(MASKS, MASKS, 1)
    table[rows, columns] = table[columns, rows] = torch.tensor(upper)
    if agreeing:  # make one disagreer hold, where there is one
        table[2, :] = table[:, 2] = diagonal[2]
        table[range(MASKS), range(MASKS)] = torch.tensor(diagonal)
    defense = PatchCleanser(PatchCleanserConfig(masks_per_side=2, patch=1 / SIDE, fallback=fallback))
    classifier = TableClassifier(table)
    result = defense.purify(torch.ones(1, 1, SIDE, SIDE), classifier)
    assert (int(result.labels), int(result.queries)) == algorithm_1(table.tolist(), fallback)
    assert torch.equal(classifier(result.images), result.labels)


def test_a_covered_trigger_is_removed_in_the_second_round() -> None:
    victim = PatchTriggerClassifier(row=13, column=20)
    clean = plain_images(6, size=32)
    batch = torch.cat([clean, victim.stamp(clean)])
    for fallback in ("first-round", "all", "second-round"):
        result = PatchCleanser(PatchCleanserConfig(fallback=fallback)).purify(batch, victim)
        assert torch.equal(result.labels, victim(clean).repeat(2))
        assert torch.equal(result.images[:6], clean)
        assert (result.images[6:] == 0.5).all(dim=1).flatten(1).sum(dim=1).tolist() == [81] * 6
        assert result.queries.tolist() == [37] * 6 + [37 + 35] * 6


def test_the_certificate_on_a_constructed_case() -> None:
    """Answers 1 wherever a white pixel is seen: what a certified image is safe from is easy to say."""

    def white_pixel(images: Tensor) -> Tensor:
        return (images == 1).flatten(1).any(dim=1).long()

    config = PatchCleanserConfig()
    hidden = config.masks(32, 32)
    grey, true_label = torch.full((1, 3, 32, 32), 0.4), torch.tensor([0])
    votes = two_mask_votes(grey, hidden, white_pixel)
    assert votes.shape == (1, 36, 36)
    assert certify(votes, true_label).tolist() == [True]
    attacked = grey.repeat(100, 1, 1, 1)
    places = [(top, left) for top in range(0, 28, 3) for left in range(0, 28, 3)]
    for image, (top, left) in zip(attacked, places, strict=True):
        image[:, top : top + 5, left : left + 5] = 1
    assert white_pixel(attacked).tolist() == [1] * 100
    assert PatchCleanser(config).purify(attacked, white_pixel).labels.tolist() == [0] * 100
    larger = grey.clone()
    larger[:, :, 4:16, 4:16] = 1  # the certificate says nothing about this one
    assert PatchCleanser(config).purify(larger, white_pixel).labels.tolist() == [1]


def test_one_wrong_pair_costs_the_certificate() -> None:
    table = torch.zeros(MASKS, MASKS, dtype=torch.long)
    table[1, 3] = table[3, 1] = 5
    hidden = mask_set(SIDE, SIDE, patch=(1, 1), per_side=2)
    calls: list[int] = []

    def classifier(images: Tensor) -> Tensor:
        calls.append(len(images))
        return TableClassifier(table)(images)

    votes = two_mask_votes(torch.ones(1, 1, SIDE, SIDE), hidden, classifier)
    assert torch.equal(votes[0], table)
    assert calls == [MASKS * (MASKS + 1) // 2]
    assert certify(votes, torch.tensor([0])).tolist() == [False]
    assert certify(torch.zeros(2, 3, 3, dtype=torch.long), torch.tensor([0, 1])).tolist() == [True, False]


def test_majority_counts_only_what_was_asked_and_ties_go_up() -> None:
    votes = torch.tensor([[3, 3, 1, 1], [-9, 2, 2, 0], [4, 4, 4, 8]])
    assert majority(votes).tolist() == [3, 2, 4]
    asked = torch.tensor([[True, False, True, True], [True] * 4, [True, False, False, True]])
    assert majority(votes, asked).tolist() == [1, 2, 8]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="masks_per_side"):
        PatchCleanserConfig(masks_per_side=1)
    with pytest.raises(ConfigError, match="patch"):
        PatchCleanserConfig(patch=0.0)
    with pytest.raises(ConfigError, match="fill"):
        PatchCleanserConfig(fill=1.5)
    with pytest.raises(UnknownNameError, match="first-round"):
        PatchCleanserConfig(fallback="third-round")  # type: ignore[arg-type]
