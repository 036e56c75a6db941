"""What every adapter owes: one int64 label per image, whatever batch the image travels in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from maskrestore.classifiers import CallableClassifier, CountingClassifier, ModuleClassifier, OnnxClassifier
from maskrestore.errors import InvalidImageError
from maskrestore.types import Classifier

CLASSES, SIZE = 7, 8


def weights() -> tuple[Tensor, Tensor]:
    """A linear classifier that tells noise apart: ``(CLASSES, 3 * SIZE * SIZE)`` and ``(CLASSES,)``."""
    weight = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(0))
    return weight, -weight.sum(dim=1) / 2


def module_adapter(folder: Path) -> Classifier:
    linear = nn.Linear(3 * SIZE * SIZE, CLASSES)
    with torch.no_grad():
        for parameter, value in zip((linear.weight, linear.bias), weights(), strict=True):
            parameter.copy_(value)
    return ModuleClassifier(nn.Sequential(nn.Flatten(), linear), micro_batch=4)


def onnx_adapter(folder: Path) -> Classifier:
    weight, bias = (numpy_helper.from_array(value.numpy(), name) for value, name in zip(weights(), "wb", strict=True))
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [weight, bias],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        folder / "linear.onnx",
    )
    return OnnxClassifier(folder / "linear.onnx", micro_batch=4)


def linear_labels(images: Tensor) -> np.ndarray:
    weight, bias = weights()
    return (images.flatten(1) @ weight.T + bias).argmax(dim=1).int().numpy()


ADAPTERS: dict[str, Callable[[Path], Classifier]] = {
    "module": module_adapter,
    "onnx": onnx_adapter,
    "callable": lambda folder: CallableClassifier(linear_labels),
    "counting": lambda folder: CountingClassifier(CallableClassifier(linear_labels)),
}


@pytest.fixture(params=ADAPTERS)
def classifier(request: pytest.FixtureRequest, tmp_path: Path) -> Classifier:
    return ADAPTERS[request.param](tmp_path)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(11, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_one_hard_label_per_image(classifier: Classifier, images: Tensor) -> None:
    labels = classifier(images)
    assert labels.shape == (11,)
    assert labels.dtype == torch.int64
    assert labels.device.type == "cpu"
    assert labels.tolist() == linear_labels(images).tolist()
    assert len(set(labels.tolist())) >= 4  # the images are told apart
    assert 0 <= labels.min() <= labels.max() < CLASSES


def test_answers_do_not_depend_on_batch_or_order(classifier: Classifier, images: Tensor) -> None:
    together = classifier(images)
    for size in (1, 2, 4, 5):
        assert torch.equal(torch.cat([classifier(part) for part in images.split(size)]), together)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    assert torch.equal(classifier(images[order]), together[order])
    assert torch.equal(classifier(images), together)


def test_images_are_left_as_they_were(classifier: Classifier, images: Tensor) -> None:
    before = images.clone()
    classifier(images)
    assert torch.equal(images, before)


def test_no_gradients_and_an_ordinary_tensor(classifier: Classifier, images: Tensor) -> None:
    labels = classifier(images.requires_grad_())
    assert not labels.requires_grad
    labels += 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0, 3, SIZE, SIZE), "at least one image"),
        (torch.full((1, 3, SIZE, SIZE), 1.5), r"\[0, 1\]"),
        (torch.full((1, 3, SIZE, SIZE), -0.5), r"\[0, 1\]"),
        (torch.full((1, 3, SIZE, SIZE), float("nan")), "NaN"),
        (torch.zeros(1, 5, SIZE, SIZE), "C = 1 or 3"),
    ],
)
def test_invalid_images_are_refused(classifier: Classifier, bad: Tensor, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        classifier(bad)
