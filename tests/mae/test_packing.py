from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrestore.mae.packing import (
    gather_tokens,
    groups_by_count,
    run_in_groups,
    scatter_tokens,
    sequence_padding,
    token_order,
)


def masks_with_counts(counts: list[int], length: int, seed: int = 0) -> torch.Tensor:
    """(B, length) bool, row i hides counts[i] random tokens."""
    rank = torch.rand(len(counts), length, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return rank < torch.tensor(counts).unsqueeze(1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(0, 1000))
def test_groups_partition_the_batch_by_count(counts: list[int], seed: int) -> None:
    hidden = masks_with_counts(counts, 6, seed)
    groups = groups_by_count(hidden)
    assert sorted(torch.cat(groups).tolist()) == list(range(len(counts)))
    for group in groups:
        assert len({counts[i] for i in group.tolist()}) == 1
        assert group.tolist() == sorted(group.tolist())
    assert len(groups) == len(set(counts))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(0, 1000))
def test_run_in_groups_returns_results_in_batch_order(counts: list[int], seed: int) -> None:
    hidden = masks_with_counts(counts, 6, seed)
    images = torch.arange(len(counts), dtype=torch.float32).unsqueeze(1)
    seen: list[int] = []

    def function(part: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert len(set(mask.sum(1).tolist())) == 1
        seen.append(len(part))
        return part * 100 + mask.sum(1, keepdim=True)

    result = run_in_groups(function, images, hidden)
    assert result.flatten().tolist() == [100 * i + count for i, count in enumerate(counts)]
    assert sum(seen) == len(counts)
    assert len(seen) == len(set(counts))


def test_gradients_reach_every_image_once() -> None:
    images = torch.rand(5, 3, requires_grad=True)
    hidden = masks_with_counts([1, 4, 1, 0, 4], 6)
    run_in_groups(lambda part, _: 2 * part, images, hidden).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, torch.full((5, 3), 2.0))


@pytest.mark.parametrize("count", [0, 3, 8])
def test_scatter_undoes_gather_and_fills_the_rest(count: int) -> None:
    hidden = masks_with_counts([count] * 4, 8)
    tokens = torch.rand(4, 8, 5)
    positions = token_order(hidden)[:, : 8 - count]
    for row, mask in zip(positions, hidden, strict=True):
        assert row.tolist() == (~mask).nonzero().flatten().tolist()
    picked = gather_tokens(tokens, positions)
    assert torch.equal(picked, tokens[~hidden].view(4, 8 - count, 5))
    filling = torch.full((1, 1, 5), -1.0)
    restored = scatter_tokens(picked, positions, filling, 8)
    assert torch.equal(restored, torch.where(hidden.unsqueeze(2), filling, tokens))


def test_order_is_visible_tokens_then_hidden_ones() -> None:
    hidden = torch.tensor([[True, False, True, False], [False, False, False, False], [True, True, True, True]])
    assert token_order(hidden).tolist() == [[1, 3, 0, 2], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_padding_counts_as_a_sequence_of_its_own() -> None:
    is_padding = torch.tensor([[False, True, True], [False, False, False], [False, False, True]])
    real, boundaries = sequence_padding(is_padding)
    assert torch.equal(real, ~is_padding)
    assert boundaries.tolist() == [0, 1, 3, 6, 6, 8, 9]
    assert boundaries.dtype == torch.int32
