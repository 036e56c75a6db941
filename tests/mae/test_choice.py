"""``auto`` chooses the packaged weights by the size of a picture, and changes nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from maskrestore import BDMAE, StreamItem
from maskrestore.errors import CheckpointError
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.mae.choice import RestorerBySize, load_restorer, named_restorer, packaged_restorer
from maskrestore.mae.restorer import MAERestorer
from maskrestore.types import Restorer, RestorerChoice


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((1, 1), "mae-tiny-32"),
        ((32, 32), "mae-tiny-32"),
        ((64, 64), "mae-tiny-32"),
        ((32, 128), "mae-tiny-32"),
        ((65, 64), "mae-photo-224"),
        ((224, 224), "mae-photo-224"),
        ((1, 5000), "mae-photo-224"),
    ],
)
def test_the_number_of_pixels_decides(size: tuple[int, int], name: str) -> None:
    assert packaged_restorer(*size) == name
    found = load_restorer().for_size(*size)
    assert found.name == name
    assert found.weights_digest == named_restorer(name).weights_digest


def test_auto_is_the_default_and_any_other_name_is_one_restorer(tmp_path: Path) -> None:
    assert isinstance(load_restorer(), RestorerBySize)
    assert isinstance(load_restorer("auto"), RestorerChoice)
    one = load_restorer("mae-photo-224")
    assert isinstance(one, MAERestorer)
    assert isinstance(one, Restorer)
    assert not isinstance(one, RestorerChoice)
    with pytest.raises(CheckpointError):
        load_restorer(tmp_path / "auto")


def labels(images: torch.Tensor) -> torch.Tensor:
    """Black box: the brightest channel."""
    return images.mean((2, 3)).argmax(1)


def test_pictures_of_mixed_sizes_get_the_bits_of_the_restorer_of_their_size() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, side, side, generator=generator) for side in (32, 96, 32, 96)]
    defense = BDMAE("auto", "fast", key="a secret of yours")
    stream = defense.purify_stream([StreamItem(id=i, image=one) for i, one in enumerate(pictures)], labels)
    for one, picture in zip(stream, pictures, strict=True):
        name = packaged_restorer(*picture.shape[-2:])
        alone = BDMAE(name, "fast", key="a secret of yours").purify(picture, labels)
        assert one.result is not None
        assert torch.equal(one.result.images, alone.images)
        assert one.result.hidden is not None
        assert alone.hidden is not None
        assert torch.equal(one.result.hidden, alone.hidden)


def test_it_can_be_pickled_like_any_restorer() -> None:
    copy = pickle.loads(pickle.dumps(load_restorer()))
    assert copy.for_size(224, 224).name == "mae-photo-224"
    assert copy.weights_digest == load_restorer().weights_digest


def test_its_digest_tells_it_from_each_of_its_restorers() -> None:
    digests = {load_restorer(name).weights_digest for name in ("auto", "mae-tiny-32", "mae-photo-224")}
    assert len(digests) == 3


@pytest.mark.parametrize(("dataset", "name"), [("cifar10", "mae-tiny-32"), ("imagenette-128", "mae-photo-224")])
def test_a_data_set_names_the_restorer_of_its_images(dataset: str, name: str) -> None:
    assert dataset_spec(dataset).restorer == name
