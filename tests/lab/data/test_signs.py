"""The rendered street signs: deterministic, balanced, and different from split to split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.data import DATASETS, load_dataset
from maskrestore.lab.data import signs as signs_module
from maskrestore.lab.data.sign_shapes import FACE_SIZE, SIGN_NAMES, VARIANTS, sign_face
from maskrestore.lab.data.signs import SIGN_COUNTS, load_signs, render_sign

CLASSES = len(SIGN_NAMES)


def distinct(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_images_have_the_promised_shape_and_names():
    signs = load_signs("test", count=20)
    assert signs.name == "signs"
    assert signs.images.shape == (20, 3, 32, 32)
    assert signs.images.dtype == torch.uint8
    assert signs.labels.shape == (20,)
    assert signs.labels.dtype == torch.int64
    assert signs.class_names == SIGN_NAMES
    assert CLASSES >= 12
    assert len(set(SIGN_NAMES)) == CLASSES


def test_the_same_seed_gives_the_same_pixels():
    first, second = load_signs("train", count=40, seed=5), load_signs("train", count=40, seed=5)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_a_short_data_set_is_the_beginning_of_a_long_one():
    short, long = load_signs("train", count=CLASSES + 3), load_signs("train", count=3 * CLASSES)
    assert torch.equal(short.images, long.images[: CLASSES + 3])
    assert torch.equal(short.labels, long.labels[: CLASSES + 3])


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [706.3, -1279.7, -61.9, -5073.1, -2399.0, -1127.5, 3554.1, 2303.5]),
        ("test", [453.8, 1031.1, -986.9, 750.3, -1968.6, -508.4, -3355.7, 423.9]),
    ],
)
def test_the_small_images_stay_what_they_were(split, expected):
    """The packaged victim and the records depend on them. Another processor may round a few pixels differently."""
    pixels = load_signs(split, count=len(expected)).images.double().flatten(1)
    weights = torch.cos(torch.arange(pixels.shape[1], dtype=torch.float64))
    assert (pixels @ weights).tolist() == pytest.approx(expected, abs=4)


def test_large_images_are_rendered_when_they_are_used(monkeypatch):
    rendered = []
    render = signs_module.render_sign
    monkeypatch.setattr(signs_module, "render_sign", lambda *given: rendered.append(given) or render(*given))
    signs = load_dataset("signs-224", "test")
    assert (signs.name, len(signs.images), signs.images.shape[1:]) == ("signs-224", SIGN_COUNTS["test"], (3, 224, 224))
    assert torch.equal(signs.labels, load_signs("test", count=SIGN_COUNTS["test"], size=224).labels)
    assert rendered == []
    last, first = signs.images[[7]], signs.images[:2]
    assert len(rendered) == 3
    again = load_signs("test", count=8, size=224)
    assert (again.name, again.images.shape) == ("signs-224", (8, 3, 224, 224))
    assert torch.equal(again.images[:][[0, 1, 7]], torch.cat([first, last]))
    assert torch.equal(signs.images[:2], first)
    assert len(rendered) == 3 + 8, "the split keeps what it has rendered"


def test_large_images_are_no_enlargements():
    """Halving their side and doubling it again loses detail, as of photographs."""
    images = load_signs("test", count=CLASSES, size=224).images[:].float()
    halved = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="area")
    lost = (images - torch.nn.functional.interpolate(halved, scale_factor=2.0, mode="bilinear")).std((1, 2, 3))
    enlarged = torch.nn.functional.interpolate(
        load_signs("test", count=CLASSES).images.float(), size=224, mode="bicubic"
    )
    halved = torch.nn.functional.interpolate(enlarged, scale_factor=0.5, mode="area")
    least = (enlarged - torch.nn.functional.interpolate(halved, scale_factor=2.0, mode="bilinear")).std((1, 2, 3))
    assert lost.median() > 3 * least.median()


@pytest.mark.parametrize("size", [16, 48, 64, 65, 100])
def test_any_size_can_be_rendered(size):
    signs = load_signs("test", count=CLASSES, size=size)
    assert signs.images[:].shape == (CLASSES, 3, size, size)
    assert (signs.images[:].float().std((1, 2, 3)) > 8).float().mean() > 0.8
    assert torch.equal(signs.labels, load_signs("test", count=CLASSES).labels)


def test_no_global_random_state_is_read_or_written():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = load_signs("test", count=8)
    assert np.array_equal(before, np.random.get_state()[1])
    np.random.seed(2)
    assert torch.equal(first.images, load_signs("test", count=8).images)


def test_every_block_holds_every_class_once():
    labels = load_signs("test", count=4 * CLASSES).labels.view(4, CLASSES)
    assert torch.equal(labels.sort(dim=1).values, torch.arange(CLASSES).expand(4, CLASSES))
    assert len({tuple(block.tolist()) for block in labels}) == 4, "blocks are shuffled independently"
    assert {"train": DATASETS["signs"].train_count, "test": DATASETS["signs"].test_count} == SIGN_COUNTS
    assert all(count % CLASSES == 0 for count in SIGN_COUNTS.values()), "the default splits are balanced"


def test_splits_and_seeds_share_no_image():
    sets = [
        distinct(load_signs("train", count=48).images),
        distinct(load_signs("test", count=48).images),
        distinct(load_signs("train", count=48, seed=1).images),
    ]
    assert [len(images) for images in sets] == [48, 48, 48]
    assert len(set.union(*sets)) == 3 * 48


def test_images_of_one_class_vary_and_keep_contrast():
    rng = np.random.default_rng(0)
    images = np.stack([render_sign(0, rng) for _ in range(60)]).astype(float)
    assert np.percentile(images.mean((1, 2, 3)), 95) - np.percentile(images.mean((1, 2, 3)), 5) > 60
    assert (images.std((1, 2, 3)) > 8).mean() > 0.95


@pytest.mark.parametrize("variant", range(VARIANTS))
def test_faces_are_distinct_and_have_a_transparent_rim(variant):
    faces = [np.asarray(sign_face(label, variant)) for label in range(CLASSES)]
    for face in faces:
        assert face.shape == (FACE_SIZE, FACE_SIZE, 4)
        assert 0.3 < (face[..., 3] > 128).mean() < 0.95
        assert face[[0, 0, -1, -1], [0, -1, 0, -1], 3].max() == 0
    for i, first in enumerate(faces):
        for second in faces[:i]:
            assert np.abs(first.astype(int) - second.astype(int)).mean() > 1


def test_a_nearest_centroid_classifier_beats_chance_by_far():
    train, test = load_signs("train", count=25 * CLASSES), load_signs("test", count=5 * CLASSES)

    def normalised(images: torch.Tensor) -> torch.Tensor:
        flat = images.float().flatten(1)
        return (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)

    features = normalised(train.images)
    centroids = torch.stack([features[train.labels == label].mean(0) for label in range(CLASSES)])
    guesses = (normalised(test.images) @ centroids.T).argmax(1)
    assert (guesses == test.labels).float().mean() > 4 / CLASSES


def test_an_empty_request_is_an_empty_data_set():
    signs = load_signs("test", count=0)
    assert signs.images.shape == (0, 3, 32, 32)
    assert signs.labels.shape == (0,)


def test_bad_arguments_are_refused_with_advice():
    with pytest.raises(UnknownNameError, match="'validation'; known: test, train"):
        load_signs("validation")
    with pytest.raises(ConfigError, match="count is -1"):
        load_signs("test", count=-1)
    with pytest.raises(ConfigError, match="seed is -3"):
        load_signs("test", count=1, seed=-3)
    with pytest.raises(ConfigError, match="size is 15; expected 16 or more pixels"):
        load_signs("test", count=1, size=15)
