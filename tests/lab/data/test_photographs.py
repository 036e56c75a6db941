"""Photographs: folders of classes and parquet files, decoded when they are used."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from maskrestore.errors import DataError
from maskrestore.lab.attacks import make_attack, poison
from maskrestore.lab.data import DATASETS, ImageDataset, StoredImages, images_at_once, load_dataset
from maskrestore.lab.data.stored import EncodedFiles

PEOPLE = 170


def save(path: Path, size: tuple[int, int] = (8, 8), colour: object = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


def class_folders(root: Path, classes: int, *, test: str = "val") -> None:
    """``classes`` folders with two training pictures and one test picture, whose grey level is the class."""
    for number in range(classes):
        for name in (f"train/n{number:04d}/a.JPEG", f"train/n{number:04d}/b.JPEG", f"{test}/n{number:04d}/c.JPEG"):
            save(root / name, colour=(number,) * 3)


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_class_folders_are_a_data_set(tmp_path: Path, test: str) -> None:
    class_folders(tmp_path / "vggface2-170", PEOPLE, test=test)
    train, held_out = (load_dataset("vggface2-170", split, folder=tmp_path) for split in ("train", "test"))
    assert isinstance(train.images, StoredImages)
    assert train.images.shape == (2 * PEOPLE, 3, 224, 224)
    assert train.labels.tolist() == [number for number in range(PEOPLE) for _ in range(2)]
    assert held_out.labels.tolist() == list(range(PEOPLE))
    assert held_out.images[[3, 169]][:, 0, 100, 100].tolist() == [3, 169]


@pytest.mark.parametrize(("name", "classes"), [("imagenet10", 10), ("imagenet50", 50), ("imagenet100", 100)])
def test_the_first_classes_of_imagenet_in_alphabetical_order(tmp_path: Path, name: str, classes: int) -> None:
    class_folders(tmp_path / "imagenet", 103)
    loaded = load_dataset(name, "test", folder=tmp_path)
    assert loaded.labels.tolist() == list(range(classes))
    assert (loaded.images[:][:, 0, 0, 0] - loaded.labels).abs().max() <= 1  # JPEG rounds


def test_a_folder_of_its_own_comes_before_the_larger_data_set(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet", 12)
    class_folders(tmp_path / "imagenet10", 10)
    save(tmp_path / "imagenet10" / "val" / "n0009" / "more.png", colour=(9,) * 3)
    assert load_dataset("imagenet10", "test", folder=tmp_path).labels.tolist() == [*range(10), 9]


def test_small_images_may_be_in_folders_too(tmp_path: Path) -> None:
    class_folders(tmp_path / "cifar10", 10)
    loaded = load_dataset("cifar10", "train", folder=tmp_path)
    assert isinstance(loaded.images, torch.Tensor)
    assert loaded.images.shape == (20, 3, 32, 32)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "imagenette"
    class_folders(root, 9)
    with pytest.raises(DataError, match=r"train has 9 class folders; imagenette has 10 classes"):
        load_dataset("imagenette", "test", folder=tmp_path)
    class_folders(root, 11)
    with pytest.raises(DataError, match="11 class folders"):
        load_dataset("imagenette", "train", folder=tmp_path)


def test_a_class_without_training_pictures_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenette", 10)
    for path in (tmp_path / "imagenette" / "train" / "n0004").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no pictures in .*n0004"):
        load_dataset("imagenette", "train", folder=tmp_path)


def test_a_class_missing_in_the_test_split_shifts_no_label(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenette", 10)
    (tmp_path / "imagenette" / "val" / "n0002" / "c.JPEG").unlink()
    (tmp_path / "imagenette" / "val" / "n0002").rmdir()
    (tmp_path / "imagenette" / "val" / "n0005" / "c.JPEG").unlink()  # and one is empty
    assert load_dataset("imagenette", "test", folder=tmp_path).labels.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    save(tmp_path / "imagenette" / "val" / "stranger" / "a.png")
    with pytest.raises(DataError, match=r"classes that .*train has not: stranger"):
        load_dataset("imagenette", "test", folder=tmp_path)


def test_files_that_are_no_pictures_are_left_out_and_broken_ones_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenette", 10)
    (tmp_path / "imagenette" / "val" / "n0000" / "Thumbs.db").write_bytes(b"?")
    (tmp_path / "imagenette" / "val" / ".cache").mkdir()
    loaded = load_dataset("imagenette", "test", folder=tmp_path)
    assert len(loaded.images) == len(loaded.labels) == 10
    (tmp_path / "imagenette" / "val" / "n0001" / "c.JPEG").write_bytes(b"\xff\xd8 no more")
    loaded = load_dataset("imagenette", "test", folder=tmp_path)
    assert len(loaded.images[:1]) == 1
    with pytest.raises(DataError, match=r"n0001.c\.JPEG: 10 bytes cannot be decoded"):
        loaded.images[[1]]


def test_a_photograph_is_cropped_and_never_squashed(tmp_path: Path) -> None:
    """A disc stays round; what a crop cuts off is at the ends of the longer side."""
    rows, columns = np.mgrid[0:300, 0:900]
    disc = (rows - 150) ** 2 + (columns - 450) ** 2 < 100**2
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[disc] = 255
    pixels[:, :200, 0] = 255  # red on the left is cut off
    for turned in (False, True):
        path = tmp_path / f"{turned}.png"
        Image.fromarray(pixels.swapaxes(0, 1) if turned else pixels).save(path)
        image = StoredImages(EncodedFiles([path]), 150)[:1][0].float() / 255
        assert image.shape == (3, 150, 150)
        white = image.mean(0) > 0.5
        assert white.any(0).sum().item() == pytest.approx(100, abs=2)
        assert white.any(1).sum().item() == pytest.approx(100, abs=2)
        assert (image[0] - image[1]).abs().max() < 0.01


@pytest.mark.parametrize(
    ("mode", "colour", "size"),
    [("L", 90, (1, 700)), ("LA", (90, 0), (700, 1)), ("P", 0, (3, 3)), ("CMYK", (0, 0, 0, 0), (60, 20))],
)
def test_odd_pictures_come_back_in_shape(tmp_path: Path, mode: str, colour: object, size: tuple[int, int]) -> None:
    path = tmp_path / ("odd.tif" if mode == "CMYK" else "odd.png")
    save(path, size, colour, mode)
    assert StoredImages(EncodedFiles([path]), 160)[:1].shape == (1, 3, 160, 160)


def rows_of(path: Path, labels: list[int], *, group: int) -> None:
    """A parquet file whose pictures have their number as grey level."""
    cells = []
    for number in range(len(labels)):
        buffer = io.BytesIO()
        Image.new("RGB", (224, 224), (number,) * 3).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels}), path, row_group_size=group)


def test_parquet_files_are_decoded_when_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of(tmp_path / "imagenette" / "test-00000-of-00002.parquet", [number % 10 for number in range(25)], group=10)
    rows_of(tmp_path / "imagenette" / "test-00001-of-00002.parquet", [7] * 5, group=10)
    loaded = load_dataset("imagenette", "test", folder=tmp_path)
    images = loaded.images
    assert isinstance(images, StoredImages)
    assert loaded.labels.tolist() == [*(number % 10 for number in range(25)), *[7] * 5]
    levels = [*range(25), *range(5)]
    monkeypatch.setattr("maskrestore.lab.data.stored._BUDGET", 1)  # keeps one group of rows
    order = torch.randperm(30)
    assert images[order][:, 0, 0, 0].tolist() == [levels[row] for row in order]
    assert images[loaded.labels == 7][:, 1, 9, 9].tolist() == [7, 17, 0, 1, 2, 3, 4]
    assert [len(part) for part in images.split(13)] == [13, 13, 4]
    assert images[::10][:, 2, 0, 0].tolist() == [0, 10, 20]
    fewer = loaded.sample(4, seed=1)
    assert len(fewer.images) == len(fewer.labels) == 4
    pairs = set(zip(levels, loaded.labels.tolist(), strict=True))
    assert pairs.issuperset(zip(fewer.images[:][:, 0, 0, 0].tolist(), fewer.labels.tolist(), strict=True))


def test_where_a_broken_row_is(tmp_path: Path) -> None:
    for shard, good in enumerate((3, 2)):
        path = tmp_path / "imagenette" / f"test-0000{shard}-of-00002.parquet"
        rows_of(path, [0] * good, group=2)
    table = pq.read_table(path).to_pylist()
    table[1]["image"]["bytes"] = b"nothing"
    pq.write_table(pa.Table.from_pylist(table), path)
    images = load_dataset("imagenette", "test", folder=tmp_path).images
    with pytest.raises(DataError, match=r"test-00001-of-00002\.parquet, row 1: 7 bytes cannot be decoded"):
        images[4:]


def test_pictures_are_chosen_by_their_path(tmp_path: Path) -> None:
    rows_of(tmp_path / "imagenette" / "test-00000-of-00002.parquet", [0, 1, 2], group=2)
    rows_of(tmp_path / "imagenette" / "test-00001-of-00002.parquet", [3, 4], group=2)
    for shard in (0, 1):
        path = tmp_path / "imagenette" / f"test-0000{shard}-of-00002.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[1]["image"]["path"] = f"n01440764/ILSVRC2012_val_{shard}.JPEG"
        pq.write_table(pa.Table.from_pylist(rows), path)
    loaded = load_dataset("imagenette", "test", folder=tmp_path)
    unseen = loaded.named("ILSVRC2012_val")
    assert unseen.name == "imagenette[ILSVRC2012_val]"
    assert unseen.labels.tolist() == [1, 4]
    assert unseen.images[:][:, 0, 0, 0].tolist() == [1, 1]
    with pytest.raises(DataError, match="no picture of imagenette has 'elsewhere' in its path"):
        loaded.named("elsewhere")
    class_folders(tmp_path / "more" / "imagenette", 10)
    folders = load_dataset("imagenette", "train", folder=tmp_path / "more").named("n0003")
    assert folders.labels.tolist() == [3, 3]
    assert len(folders.named("a.JPEG").labels) == 1


def test_pictures_may_be_replaced_in_memory(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenette", 10)
    loaded = load_dataset("imagenette", "train", folder=tmp_path)
    poisoned, rows = poison(loaded, make_attack("badnets:3x3-white", num_classes=10, image_size=224), 0.2, seed=0)
    assert len(rows) == 4
    before, after = loaded.images[:], poisoned.images[:]
    changed = (before != after).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == rows.tolist()
    assert (after[rows][:, :, 221, 221] == 255).all()


def test_how_many_photographs_a_network_takes_at_once() -> None:
    assert images_at_once(torch.empty(1, 3, 32, 32), 500) == 500
    assert images_at_once(torch.empty(1, 3, 224, 224), 500) == 2
    assert images_at_once(torch.empty(1, 3, 900, 900), 500) == 1


def test_specs_of_photographs() -> None:
    large = {name for name, spec in DATASETS.items() if spec.photographs}
    assert large == {
        "imagenette",
        "imagenette-128",
        "lfw62",
        "imagenet10",
        "imagenet50",
        "imagenet100",
        "vggface2-170",
        "signs-224",
    }
    assert [len(DATASETS[f"imagenet{number}"].class_names) for number in (10, 50, 100)] == [10, 50, 100]


STREAM = """
import resource, sys
from pathlib import Path
from maskrestore.lab.data import load_dataset
test = load_dataset("imagenette", "test", folder=Path(sys.argv[1]))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for part in test.images.split(4):
    break
before = peak()
for part in test.images.split(4):
    pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource module")
def test_a_pass_over_a_split_needs_no_memory_for_its_pixels(tmp_path: Path) -> None:
    """1,200 pictures have 180 MB of pixels."""
    rows_of(tmp_path / "imagenette" / "test-00000-of-00001.parquet", [0] * 200, group=50)
    for name in ("train", "val"):
        class_folders(tmp_path / "folders" / "imagenette", 10, test=name)
    for number in range(1200):
        save(tmp_path / "folders" / "imagenette" / "val" / f"n{number % 10:04d}" / f"{number}.png", (224, 224))
    run = [sys.executable, "-c", STREAM, str(tmp_path / "folders")]
    grown = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert grown < 40


def test_a_data_set_in_memory_can_be_sampled() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    data = ImageDataset(name="cifar10", images=images, labels=torch.arange(10), class_names=("a", "b"))
    few = data.sample(3, seed=2)
    assert few.images.flatten().tolist() == few.labels.tolist()
    assert few.labels.tolist() == sorted(set(few.labels.tolist()))
    assert len(data.sample(50, seed=2).labels) == 10
