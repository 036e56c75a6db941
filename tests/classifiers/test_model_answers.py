from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrestore.classifiers.answers import checked_labels
from maskrestore.classifiers.model_answers import ModelAnswers
from maskrestore.errors import ClassifierOutputError, ConfigError

SCORES = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 2.0]])
Pair = namedtuple("Pair", ["features", "scores"])


@dataclass
class Output:
    """As the models of transformers answer."""

    loss: Tensor | None
    logits: Tensor


@dataclass
class Other:
    boxes: Tensor
    scores: Tensor


def labels(answer: object, count: int = 2, **settings: Any) -> list[int]:
    found = checked_labels(*ModelAnswers(**settings)(answer, count))
    assert found.dtype == torch.int64
    return found.tolist()


@pytest.mark.parametrize(
    "answer",
    [
        SCORES,
        SCORES.numpy(),
        SCORES.tolist(),
        SCORES.half(),
        SCORES.bfloat16(),
        SCORES.double(),
        SCORES[:, :, None, None],
        SCORES[:, None, None],
        SimpleNamespace(logits=SCORES),
        Output(loss=None, logits=SCORES),
        {"logits": SCORES, "features": torch.zeros(2, 8)},
        OrderedDict(scores=SCORES),
        (SCORES,),
        [SCORES.numpy()],
        [SCORES[0].numpy(), SCORES[1].numpy()],
        [{0: 0.1, 1: 0.9, 2: 0.0}, {0: 3.0, 1: -1.0, 2: 2.0}],
        torch.tensor([1, 0], dtype=torch.int32),
        torch.tensor([[1], [0]]),
        np.array([[True], [False]]),
        [1, 0],
    ],
)
def test_scores_and_labels_in_every_form(answer: object) -> None:
    assert labels(answer) == [1, 0]


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        ((torch.zeros(2, 8), SCORES), "1"),
        ((torch.zeros(2, 8), SCORES), 1),
        (Pair(torch.zeros(2, 8), SCORES), "scores"),
        ({"a": torch.zeros(2, 8), "b": SCORES}, "b"),
        ({"a": torch.zeros(2, 8), "b": SCORES}, "1"),
        (Other(torch.zeros(2, 4), SCORES), "scores"),
        (SimpleNamespace(scores=SCORES, logits=torch.zeros(2, 8)), "scores"),
        (SCORES, 0),
    ],
)
def test_a_part_is_read_by_its_name_or_index(answer: object, output: str | int) -> None:
    assert labels(answer, output=output) == [1, 0]


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        ((torch.zeros(2, 8), SCORES), None, r"tuple with 2 parts \(0: torch.float32 of shape \(2, 8\).*--output NAME"),
        ({"a": SCORES, "b": SCORES}, None, "a dict with 2 parts"),
        (Other(torch.zeros(2, 4), SCORES), None, "Other with 2 parts"),
        ({"a": SCORES, "b": SCORES}, "c", "has no part 'c'; it has: a: torch.float32"),
        ((SCORES, SCORES), "2", "has no part '2'"),
        (SCORES, "logits", "one Tensor, not with parts: leave output='logits' out"),
    ],
)
def test_ambiguous_and_wrong_parts_are_refused(answer: object, output: str | None, message: str) -> None:
    with pytest.raises(ClassifierOutputError, match=message):
        labels(answer, output=output)


def test_names_and_maps_become_numbers_in_the_order_of_the_classes() -> None:
    maps = [{"cat": 0.1, "dog": 0.9}, {"cat": 0.7, "dog": 0.3}]
    assert labels(maps) == [1, 0]
    assert labels(maps, classes=["dog", "cat"]) == [0, 1]
    assert labels(["dog", "cat"], classes=["dog", "cat"]) == [0, 1]
    assert labels(np.array([["dog"], ["cat"]], dtype=object), classes=["cat", "dog"]) == [1, 0]
    assert labels(np.array([b"dog", b"cat"]), classes=["cat", "dog"]) == [1, 0]
    assert labels([{7: 0.1, 3: 0.9}, {7: 0.7, 3: 0.3}]) == [3, 7]
    assert labels({"cat": 0.1, "dog": 0.9}, 1) == [1]
    reader = ModelAnswers()
    reader(maps, 2)
    assert reader.classes == ("cat", "dog")
    assert checked_labels(*reader(["dog", "dog"], 2)).tolist() == [1, 1]


def test_one_score_needs_a_threshold() -> None:
    for scores in (torch.tensor([0.2, 0.8]), torch.tensor([[0.2], [0.8]]), [0.2, 0.8]):
        with pytest.raises(ClassifierOutputError, match=r"probability or a logit.*--threshold 0\.5"):
            labels(scores)
        assert labels(scores, threshold=0.5) == [0, 1]
        assert labels(scores, threshold=0) == [1, 1]
    with pytest.raises(ClassifierOutputError, match=r"one score for each image; .*\(2, 3\); leave it out"):
        labels(SCORES, threshold=0.5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.tensor([[0.1, float("nan")], [0.2, 0.3]]), "NaN"),
        ([{0: 0.1, 1: float("nan")}, {0: 0.1, 1: 0.4}], "NaN"),
        (torch.tensor([[0.1, 0.2], [float("inf"), float("inf")]]), "infinite"),
        (torch.tensor([[0.1, 0.2], [-float("inf"), -float("inf")]]), "infinite"),
        (torch.zeros(3, 10), r"scores of shape \(2, K\) for 2 images, got torch.float32 of shape \(3, 10\)"),
        (torch.tensor([[5, 2, 7], [1, 0, 3]]), r"got torch\.int64 of shape \(2, 3\); integers in rows are no scores"),
        (torch.zeros(2, 10, 4, 4), "score for each place, as segmentation models"),
        (torch.zeros(2, 100, 6), "list of finds, as detectors"),
        (torch.zeros(2, 0), r"shape \(2, 0\)"),
        (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
        (torch.tensor(3), r"shape \(\)"),
        (None, "NoneType"),
        ([], r"shape \(0,\)"),
        (["dog", "cat"], "names of classes, such as 'dog'.*--class-names"),
        ([{"cat": 0.1, "dog": 0.9}, {"cat": 0.1, "cow": 0.9}], "the same two classes"),
        ([{"cat": 0.1, "dog": 0.9}], "for each of 2 images, got 1"),
        ([{"cat": 1.0}, {"cat": 1.0}], "two classes or more"),
        ([{0.5: 1.0, 1.5: 0.0}] * 2, "names or whole numbers"),
    ],
)
def test_anything_else_is_refused(answer: object, message: str) -> None:
    with pytest.raises(ClassifierOutputError, match=message):
        labels(answer)


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(ClassifierOutputError, match="'cow', which is none of its 2 classes: cat, dog"):
        labels(["cow", "dog"], classes=["cat", "dog"])
    with pytest.raises(ConfigError, match="more than once: cat"):
        ModelAnswers(classes=["cat", "dog", "cat"])
    with pytest.raises(ConfigError, match="threshold must be a number, got nan"):
        ModelAnswers(threshold=float("nan"))


def test_another_number_of_classes_than_before_is_refused() -> None:
    reader = ModelAnswers()
    reader(torch.zeros(2, 3), 2)
    reader(torch.zeros(4, 3), 4)
    with pytest.raises(ClassifierOutputError, match=r"3 classes before, and now with torch.float32 of shape \(2, 5\)"):
        reader(torch.zeros(2, 5), 2)
    with pytest.raises(ClassifierOutputError, match="3 classes before, and now with maps of 2 classes"):
        reader([{0: 0.1, 1: 0.2}], 1)


def test_scores_of_one_image_may_lack_its_axis() -> None:
    assert labels(torch.tensor([0.1, 0.9, 0.0]), 1) == [1]


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", np.longdouble, "<f8"])
def test_scores_may_be_in_any_format(dtype: Any) -> None:
    labels, holds_nan = ModelAnswers()(np.array([[0.1, 0.9], [0.8, 0.2]], dtype), 2)
    assert checked_labels(labels, holds_nan).tolist() == [1, 0]


@pytest.mark.parametrize("scores", [{"a": (1, 2), "b": 0.5}, {"a": "high", "b": 0.5}, {2**70: 1.0, 1: 0.5}])
def test_maps_without_numbers_are_refused(scores: Any) -> None:
    with pytest.raises(ClassifierOutputError):
        ModelAnswers()([scores], 1)


def test_one_infinite_score_is_the_best_one() -> None:
    scores = torch.tensor([[0.1, float("inf"), -float("inf")], [0.5, -float("inf"), -float("inf")]])
    assert labels(scores) == [1, 0]


def test_one_number_is_the_label_of_the_only_image() -> None:
    assert labels(torch.tensor(3), count=1) == [3]
    assert labels(torch.tensor(0.7), count=1, threshold=0.5) == [1]
    with pytest.raises(ClassifierOutputError, match="expected labels"):
        labels(torch.tensor(3), count=2)
