"""What is answered when the answer is in doubt."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from maskrestore import BDMAE, Purification, protect
from maskrestore.defense.doubt import ABSTAINED, OnDoubt, answers, check_on_doubt
from maskrestore.errors import ConfigError, UnknownNameError

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# Of the four images the first and the third have an answer that does not fit the suspicion.
RESULT = Purification(
    images=IMAGES,
    labels=torch.tensor([3, 3, 5, 5]),
    original_labels=torch.tensor([3, 3, 4, 4]),
    queries=torch.full((4,), 30),
    suspicion=torch.tensor([0.9, 0.1, 0.2, 0.8]),
)


def test_doubt_is_that_the_answer_does_not_fit_the_suspicion() -> None:
    assert RESULT.doubt is not None
    torch.testing.assert_close(RESULT.doubt, torch.tensor([0.9, 0.1, 0.8, 0.2]))
    assert RESULT.doubtful(0.5).tolist() == [True, False, True, False]
    assert RESULT.doubtful(0.85).tolist() == [True, False, False, False]


def test_without_a_suspicion_nothing_is_in_doubt() -> None:
    values = {name: getattr(RESULT, name) for name in ("images", "labels", "original_labels", "queries")}
    assert Purification(**values).doubt is None
    assert not Purification(**values).doubtful(0.0).any()


@pytest.mark.parametrize(
    ("on_doubt", "expected"),
    [
        ("answer", [3, 3, 5, 5]),
        ("original", [3, 3, 4, 5]),
        ("abstain", [ABSTAINED, 3, ABSTAINED, 5]),
        (lambda image, result: 7, [7, 3, 7, 5]),
        (lambda image, result: torch.tensor(7), [7, 3, 7, 5]),
    ],
)
def test_each_policy_answers_only_what_is_in_doubt_differently(on_doubt: OnDoubt, expected: list[int]) -> None:
    assert answers(IMAGES, RESULT, on_doubt).tolist() == expected


def test_a_function_gets_each_image_in_doubt_with_its_result() -> None:
    seen: list[tuple[Tensor, Purification]] = []

    def ask_a_person(image: Tensor, result: Purification) -> int:
        seen.append((image, result))
        return 0

    answers(IMAGES, RESULT, ask_a_person)
    assert [len(result.labels) for _, result in seen] == [1, 1]
    assert torch.equal(torch.stack([image for image, _ in seen]), IMAGES[[0, 2]])


@pytest.mark.parametrize("label", [None, "cat", 1.0, True, torch.tensor([1, 2])])
def test_a_function_must_return_a_label(label: object) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        answers(IMAGES, RESULT, lambda image, result: label)  # type: ignore[arg-type, return-value]


def test_wrong_policies_are_refused() -> None:
    config = BDMAE().config
    with pytest.raises(UnknownNameError, match="abstain"):
        check_on_doubt("refuse", 0.5, config)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="doubt_limit"):
        check_on_doubt("abstain", 1.5, config)
    with pytest.raises(ConfigError, match="only query"):
        protect(lambda images: images.sum(dim=(1, 2, 3)).long(), key=1, max_queries=1, on_doubt="original")


def _blue(images: Tensor) -> Tensor:
    return (images[:, 2].mean(dim=(1, 2)) > 0.5).long()


def test_a_protected_classifier_abstains_and_can_be_pickled() -> None:
    answered = protect(_blue, key=1)(IMAGES)
    cautious = pickle.loads(pickle.dumps(protect(_blue, key=1, on_doubt="abstain", doubt_limit=0.0)))
    assert (answered >= 0).all()
    assert (cautious(IMAGES) == ABSTAINED).all()
