import sys

import pytest
import torch

from fakes import MeanRestorer
from maskrestore import BDMAE, PROFILES
from maskrestore.classifiers import ModuleClassifier, as_classifier
from maskrestore.jobs.identity import classifier_identity, settings_digest


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A file with a classifier, imported as ``identified``."""
    path = tmp_path / "identified.py"
    path.write_text("def classify(images):\n    return images.new_zeros(len(images)).long()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import identified

    yield identified
    del sys.modules["identified"]


def test_another_file_behind_the_same_name_is_another_classifier(module, tmp_path):
    classifier = as_classifier(module.classify)
    first = classifier_identity("identified:classify", classifier, "0.5", None)
    assert first.startswith("identified:classify (")
    assert classifier_identity("identified:classify", classifier, "0.5", None) == first
    assert classifier_identity("identified:classify", classifier, None, "0.5") != first
    (tmp_path / "identified.py").write_text("# another model\n")
    assert classifier_identity("identified:classify", classifier, "0.5", None) != first


def test_weights_of_a_module_count(module):
    linear = torch.nn.Linear(2, 2)
    first = classifier_identity("identified:linear", ModuleClassifier(linear))
    with torch.no_grad():
        linear.weight[0, 0] += 1
    assert classifier_identity("identified:linear", ModuleClassifier(linear)) != first


def test_files_beside_an_onnx_model_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model[1].onnx").write_bytes(b"graph")
    (tmp_path / "model[1].onnx.data").write_bytes(b"weights")
    first = classifier_identity("model[1].onnx", len)
    (tmp_path / "other.onnx.data").write_bytes(b"of another model")
    assert classifier_identity("model[1].onnx", len) == first
    (tmp_path / "model[1].onnx.data").write_bytes(b"other weights")
    assert classifier_identity("model[1].onnx", len) != first


def test_every_setting_that_changes_results_changes_the_digest():
    class OtherRestorer(MeanRestorer):
        pass

    weighted = MeanRestorer()
    weighted.weights_digest = "0123"
    digests = [
        settings_digest(BDMAE(MeanRestorer())),
        settings_digest(BDMAE(MeanRestorer()), "more"),
        settings_digest(BDMAE(MeanRestorer(), "paper")),
        settings_digest(BDMAE(MeanRestorer(), key="secret")),
        settings_digest(BDMAE(OtherRestorer())),
        settings_digest(BDMAE(weighted)),
    ]
    assert len(set(digests)) == len(digests)
    # The number of images that are worked on together changes no result.
    assert settings_digest(BDMAE(MeanRestorer(), PROFILES["default"], chunk_size=2)) == digests[0]
