import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from onnx_files import write_model
from torch import nn

from fakes import colour_labels, plain_images
from maskrestore.classifiers import (
    CallableClassifier,
    CountingClassifier,
    ModuleClassifier,
    OnnxClassifier,
    as_classifier,
    load_classifier,
)
from maskrestore.errors import ClassifierError, ConfigError

VENDOR = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))

class Box:
    model = Net()

def classify(images):
    return images.mean(dim=(2, 3)).argmax(dim=1)

net = Net()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of the user's."""
    (tmp_path / "vendor_of_tests.py").write_text(VENDOR)
    (tmp_path / "broken_of_tests.py").write_text("import a_package_that_nobody_has")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("vendor_of_tests", None)


def test_functions_and_modules_from_the_working_directory(folder: Path) -> None:
    images = plain_images(6)
    expected = images.mean(dim=(2, 3)).argmax(dim=1)
    for attribute, kind in (
        ("classify", CallableClassifier),
        ("net", ModuleClassifier),
        ("Box.model", ModuleClassifier),
    ):
        classifier = load_classifier(f"vendor_of_tests:{attribute}")
        assert isinstance(classifier, kind)
        assert torch.equal(classifier(images), expected)
    shifted = load_classifier("vendor_of_tests:net", mean=[1, 0, 1], std=0.5)
    assert shifted(images).tolist() == [1] * 6


def test_onnx_files(folder: Path) -> None:
    write_model(folder / "model.ONNX")
    images = plain_images(6)
    assert isinstance(load_classifier("model.ONNX"), OnnxClassifier)
    assert torch.equal(load_classifier(str(folder / "model.ONNX"))(images), images.mean(dim=(2, 3)).argmax(dim=1))
    assert load_classifier("model.ONNX", mean=(1, 1, 0))(images).tolist() == [2] * 6


@pytest.mark.parametrize(
    "spec", ["", "model", "model.pth", "vendor:", ":net", "a/b:c", "vendor:net:more", "vendor.:net", "demo"]
)
def test_specs_that_make_no_sense(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a model file .* or package\.module:attribute, got"):
        load_classifier(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("broken_of_tests:net", "importing 'broken_of_tests' failed: .*a_package_that_nobody_has"),
        ("vendor_of_tests:number", "expected a torch.nn.Module or a function, got a int"),
        ("vendor_of_tests:Net", "got the class Net; make an instance"),
        ("gone.onnx", "expected an ONNX file"),
    ],
)
def test_what_cannot_be_loaded_says_why(spec: str, message: str, folder: Path) -> None:
    with pytest.raises(ClassifierError, match=message):
        load_classifier(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere_of_tests:net", "there is no Python module 'nowhere_of_tests'"),
        ("vendor_of_tests:nett", "'vendor_of_tests' has no 'nett'; it has: Box, Net, classify, net"),
        ("vendor_of_tests:Box.other", "has no 'Box.other'; it has: model"),
    ],
)
def test_names_that_do_not_exist_are_errors_of_usage(spec: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_classifier(spec)


def test_a_function_normalises_itself(folder: Path) -> None:
    with pytest.raises(ConfigError, match="vendor_of_tests:classify is a function"):
        load_classifier("vendor_of_tests:classify", mean=0.5)


def test_as_classifier(tmp_path: Path) -> None:
    images = plain_images(4)
    function = as_classifier(colour_labels)
    assert isinstance(function, CallableClassifier)
    assert torch.equal(function(images), colour_labels(images))
    assert isinstance(as_classifier(nn.Flatten()), ModuleClassifier)
    for adapter in (
        function,
        CountingClassifier(function),
        ModuleClassifier(nn.Flatten()),
        OnnxClassifier(write_model(tmp_path / "a.onnx")),
    ):
        assert as_classifier(adapter) is adapter
    with pytest.raises(ClassifierError, match="got a str"):
        as_classifier("model.onnx")
    with pytest.raises(ClassifierError, match="the class Flatten"):
        as_classifier(nn.Flatten)
