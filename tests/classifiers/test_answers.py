import numpy as np
import pytest
import torch

from maskrestore.classifiers.answers import hard_labels
from maskrestore.errors import ClassifierOutputError


@pytest.mark.parametrize(
    "answer",
    [
        *(torch.tensor([2, 0, 7], dtype=dtype) for dtype in (torch.int64, torch.int32, torch.int8, torch.uint8)),
        *(np.array([2, 0, 7], dtype=dtype) for dtype in ("int64", "uint16", "uint32", "uint64", ">i4")),
        [2, 0, 7],
        (2, 0, 7),
        [np.int32(2), 0, 7],
        [torch.tensor(2), torch.tensor(0), torch.tensor(7)],
    ],
)
def test_integers_of_any_kind_become_int64(answer: object) -> None:
    labels = hard_labels(answer, 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 7]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(3, 10), r"each of 3 images.*torch.float32 of shape \(3, 10\).*ModuleClassifier"),
        (torch.zeros(3, 10, dtype=torch.int64), "return logits.argmax"),
        (torch.zeros(3), r"torch.float32 of shape \(3,\); return integers: labels.long"),
        ([0.0, 1.0, 2.0], "return integers"),
        ([0.2, 0.9, 0.4], r"scores of a class: return the class itself"),
        (torch.zeros(3, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(3, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(2, dtype=torch.int64), r"of shape \(2,\); answer all images"),
        (torch.zeros(4, dtype=torch.int64), "in their order"),
        (torch.zeros(0, dtype=torch.int64), r"of shape \(0,\)"),
        (torch.zeros(3, 1, dtype=torch.int64), "squeeze"),
        (torch.tensor(3), r"of shape \(\); return one label per image"),
        (5, r"of shape \(\)"),
        (None, "got a NoneType of object"),
        (["cat", "dog", "cow"], "class names to their indices"),
        ([[1, 2], [3]], "got a list"),
        ([2**63] * 3, "labels below 2.63"),
        ([-2, 0, 2**63], "labels below 2.63"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "labels below 2.63"),
        (torch.tensor([0, 1, 2**64 - 1], dtype=torch.uint64), "labels below 2.63"),
        (torch.zeros(3, dtype=torch.int64).to_sparse(), "plain tensor"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "plain tensor"),
        ({"label": 3}, "got a dict"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_hint(answer: object, message: str) -> None:
    with pytest.raises(ClassifierOutputError, match=message):
        hard_labels(answer, 3)
