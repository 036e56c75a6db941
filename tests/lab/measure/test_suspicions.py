"""How good a suspicion is."""

from __future__ import annotations

import pytest
import torch

from maskrestore.lab.measure.suspicions import COVERAGES, Suspected, measure_suspicion, risks


def test_wrong_answers_with_the_most_doubt_are_left_out_first() -> None:
    doubt = torch.tensor([0.9, 0.1, 0.2, 0.8])
    right = torch.tensor([False, True, True, False])
    assert risks(doubt, right, (0.25, 0.5, 0.75, 1.0)) == pytest.approx([0, 0, 1 / 3, 0.5])


def test_of_equal_doubts_any_may_be_answered() -> None:
    doubt, right = torch.full((4,), 0.3), torch.tensor([False, True, True, True])
    assert risks(doubt, right, (0.25, 0.5, 1.0)) == pytest.approx([0.25] * 3)


def test_the_entry_of_a_record() -> None:
    clean = Suspected(
        suspicion=torch.tensor([0.1, 0.2, 0.7]),
        doubt=torch.tensor([0.1, 0.2, 0.7]),
        right=torch.tensor([True, True, False]),
    )
    triggered = Suspected(
        suspicion=torch.tensor([0.9, 0.8]), doubt=torch.tensor([0.1, 0.8]), right=torch.tensor([True, False])
    )
    entry = measure_suspicion(clean, triggered)
    assert entry.auroc is not None
    assert entry.auroc.value == 1.0
    assert list(entry.risks) == [str(share) for share in COVERAGES]
    assert entry.risks["0.5"] == 0
    assert entry.risks["1.0"] == pytest.approx(2 / 5)
    assert (entry.doubtful_clean.successes, entry.doubtful_clean.trials) == (1, 3)
    assert entry.doubtful_triggered is not None
    assert entry.doubtful_triggered.successes == 1
    assert entry.right_if_sure is not None
    assert entry.right_if_sure.value == 1.0


def test_without_an_attack_there_is_nothing_to_detect() -> None:
    every = Suspected(suspicion=torch.ones(2), doubt=torch.ones(2), right=torch.tensor([True, True]))
    entry = measure_suspicion(every, None)
    assert entry.auroc is None
    assert entry.doubtful_triggered is None
    assert entry.right_if_sure is None
