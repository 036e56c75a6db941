import pytest
import torch

from fakes import colour_labels, plain_images
from maskrestore.classifiers import CallableClassifier
from maskrestore.errors import ClassifierOutputError


def test_any_kind_of_integer_answer_is_taken() -> None:
    images = plain_images(5)
    expected = colour_labels(images)
    for answer in (torch.Tensor.int, torch.Tensor.tolist, torch.Tensor.numpy):
        labels = CallableClassifier(lambda x, answer=answer: answer(colour_labels(x)))(images)
        assert torch.equal(labels, expected)
        assert labels.dtype == torch.int64


def test_logits_are_refused() -> None:
    with pytest.raises(ClassifierOutputError, match=r"got torch.float32 of shape \(2, 3\).*ModuleClassifier"):
        CallableClassifier(lambda images: images.mean(dim=(2, 3)))(plain_images(2))


def test_a_function_that_changes_its_input_changes_a_copy() -> None:
    images = plain_images(3)
    before = images.clone()
    CallableClassifier(lambda x: colour_labels(x.sub_(0.5)))(images)
    assert torch.equal(images, before)


def test_its_own_exceptions_pass_through() -> None:
    def offline(images: torch.Tensor) -> torch.Tensor:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        CallableClassifier(offline)(plain_images(1))
