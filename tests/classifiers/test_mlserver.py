"""The adapter of addresses with a real MLServer."""

import pytest
import torch

from fakes import MeanRestorer, colour_labels, plain_images
from maskrestore import BDMAE
from maskrestore.classifiers.http import HttpClassifier
from maskrestore.errors import ClassifierError

pytestmark = pytest.mark.mlserver


@pytest.mark.parametrize("model", ["colours", "silent"])
def test_labels_are_those_of_the_model(host: str, model: str) -> None:
    pictures = plain_images(40)
    with HttpClassifier(f"{host}/{model}") as classifier:
        assert torch.equal(classifier(pictures), colour_labels(pictures))
        assert classifier.sent == 40


def test_names_are_numbered(host: str) -> None:
    pictures = plain_images(10)
    with HttpClassifier(f"{host}/names", concurrency=1) as classifier:
        labels = classifier(pictures)
        names = [classifier.classes[label] for label in labels.tolist()]
    assert names == [f"colour {label}" for label in colour_labels(pictures).tolist()]


def test_a_defense_gives_the_bits_of_a_local_classifier(host: str) -> None:
    images = plain_images(3)
    defense = BDMAE(MeanRestorer(), "fast")
    with HttpClassifier(f"{host}/colours") as classifier:
        found = defense.purify(images, classifier)
    expected = defense.purify(images, colour_labels)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.queries, expected.queries)


def test_a_model_that_is_not_there_is_said_to_be_so(host: str) -> None:
    with pytest.raises(ClassifierError, match="status 404"):
        HttpClassifier(f"{host}/others")
