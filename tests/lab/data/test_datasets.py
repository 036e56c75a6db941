"""Reading data sets from parquet files in the hub's layout."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from maskrestore.errors import DataError, UnknownNameError
from maskrestore.lab.data import DATA_VARIABLE, DATASETS, hub, load_dataset

CLASSES = 10


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def write(file: Path, images: list[bytes], labels: list[int], column: str = "img") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({column: cells, "label": labels}), file)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_images_and_labels_come_back_in_order(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    encoded = [encode(image, kind) for image in pixels]
    folder = tmp_path / "cifar10" / "plain_text"  # the hub keeps the files one level down
    write(folder / "test-00000-of-00002.parquet", encoded[:2], [3, 0])
    write(folder / "test-00001-of-00002.parquet", encoded[2:], [9])
    loaded = load_dataset("cifar10", "test", folder=tmp_path)
    assert loaded.images.dtype == torch.uint8
    assert torch.equal(loaded.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert loaded.labels.tolist() == [3, 0, 9]
    assert loaded.labels.dtype == torch.int64
    assert loaded.name == "cifar10"
    assert loaded.class_names[loaded.labels[0]] == "cat"


def test_folder_comes_from_the_environment(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "gtsrb" / "train-00000-of-00001.parquet", [encode(pixels[0])], [42], column="image")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert load_dataset("gtsrb", "train").labels.tolist() == [42]


def test_without_a_folder_the_hub_is_asked(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    write(tmp_path / "plain_text" / "test-00000-of-00001.parquet", [encode(pixels[0])], [1])
    asked = {}

    def snapshot_download(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_dataset("cifar10", "test").labels.tolist() == [1]
    assert asked["repository"] == "uoft-cs/cifar10"
    assert asked["repo_type"] == "dataset"

    def offline(repository: str, **options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"no route to host.*name a folder"):
        hub.hub_files("uoft-cs/cifar10", "test")


def test_other_sizes_and_grey_images_are_brought_into_shape(tmp_path: Path) -> None:
    grey = encode(np.full((20, 50), 77, dtype=np.uint8))
    write(tmp_path / "gtsrb" / "test-00000-of-00001.parquet", [grey], [0], column="image")
    images = load_dataset("gtsrb", "test", folder=tmp_path).images
    assert images.shape == (1, 3, 32, 32)
    assert (images == 77).all()


def test_rendered_data_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setitem(DATASETS, "signs", replace(DATASETS["signs"], train_count=24, test_count=12))
    assert [len(load_dataset("signs", split).labels) for split in ("train", "test")] == [24, 12]


def test_rules_are_chosen_on_training_images_that_no_classifier_learned(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(DATASETS["cifar10-choices"], train_count=2)
    monkeypatch.setitem(DATASETS, few.name, few)
    write(tmp_path / "cifar10/train-00000-of-00001.parquet", [encode(image) for image in pixels], [7, 8, 9])
    train, test = (load_dataset(few.name, split, folder=tmp_path) for split in ("train", "test"))
    assert train.name == test.name == "cifar10-choices"
    assert train.labels.tolist() == sorted(train.labels.tolist())  # in their order
    assert sorted(train.labels.tolist() + test.labels.tolist()) == [7, 8, 9]
    for part, count in ((train, 2), (test, 1)):
        assert len(part.labels) == count
        expected = torch.from_numpy(pixels[part.labels.numpy() - 7]).permute(0, 3, 1, 2)
        assert torch.equal(part.images, expected)


def test_unknown_names_are_listed() -> None:
    with pytest.raises(UnknownNameError, match=r"known: cifar10, cifar10-choices, gtsrb, .*vggface2-170"):
        load_dataset("mnist", "test")
    with pytest.raises(UnknownNameError, match="known: test, train"):
        load_dataset("cifar10", "validation")


def test_missing_or_broken_files_say_so(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("cifar10", "test", folder=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no test-\*\.parquet"):
        load_dataset("cifar10", "test", folder=tmp_path)
    file = tmp_path / "cifar10" / "test-00000-of-00001.parquet"
    good = encode(pixels[0])

    write(file, [good], [1], column="picture")
    with pytest.raises(DataError, match=r"\['picture', 'label'\]; expected one named 'img'"):
        load_dataset("cifar10", "test", folder=tmp_path)
    write(file, [good, good[:40]], [1, 1])
    with pytest.raises(DataError, match="row 1: 40 bytes cannot be decoded as an image"):
        load_dataset("cifar10", "test", folder=tmp_path)
    write(file, [good], [CLASSES])
    with pytest.raises(DataError, match=r"10 to 10 .*expected 0 to 9"):
        load_dataset("cifar10", "test", folder=tmp_path)
    write(file, [], [])
    with pytest.raises(DataError, match=r"no rows|expected one named"):
        load_dataset("cifar10", "test", folder=tmp_path)
    file.write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load_dataset("cifar10", "test", folder=tmp_path)


def test_a_missing_shard_is_noticed(tmp_path: Path, pixels: np.ndarray) -> None:
    write(tmp_path / "cifar10" / "test-00001-of-00002.parquet", [encode(pixels[0])], [1])
    with pytest.raises(DataError, match="found 1 shards"):
        load_dataset("cifar10", "test", folder=tmp_path)


@pytest.mark.shared_data
@pytest.mark.skipif(not os.environ.get(DATA_VARIABLE), reason=f"{DATA_VARIABLE} names no folder")
@pytest.mark.parametrize(
    ("name", "count", "first", "size"),
    [("cifar10", 10_000, 3, 32), ("gtsrb", 12_630, 16, 32), ("imagenette", 1_000, 3, 224), ("lfw62", 553, 9, 160)],
)
def test_real_test_splits(name: str, count: int, first: int, size: int) -> None:
    loaded = load_dataset(name, "test")
    assert loaded.images.shape == (count, 3, size, size)
    assert loaded.labels[0] == first
    assert len(loaded.labels.unique()) == len(DATASETS[name].class_names)
