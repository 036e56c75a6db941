"""Read labelled images from a folder of class folders: ``train/CLASS/*.jpg`` and ``test/`` or ``val/``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from maskrestore.errors import DataError
from maskrestore.imaging.formats import SUFFIXES
from maskrestore.lab.data.specs import DatasetSpec
from maskrestore.lab.data.stored import EncodedFiles, StoredImages

__all__ = ["read_class_folders", "split_folder"]

_NAMES = {"train": ("train",), "test": ("test", "val", "validation")}


def split_folder(root: Path, split: str) -> Path | None:
    """Return the folder of a split in ``root``, or ``None``. The test split may be called test, val or validation."""
    return next((root / name for name in _NAMES[split] if (root / name).is_dir()), None)


def read_class_folders(root: Path, split: str, spec: DatasetSpec) -> tuple[StoredImages, Tensor]:
    """Find the pictures of a split, sorted by class and path.

    Labels are the places of the class folders in alphabetical order, those of the training split if it is there, so
    that a class without test pictures shifts no label. Classes may contain folders. Files that are no images are left
    out.

    Returns images ``(N, 3, image_size, image_size)`` uint8, decoded when they are indexed, and labels ``(N,)`` int64.

    Raises DataError when the number of classes is not that of the data set, a class of the test split is not one of the
    training split, a class has no training pictures, or the split has no pictures.
    """
    folder = split_folder(root, split)
    assert folder is not None, "the caller has found it"
    classes = _classes(root, split, spec)
    unknown = sorted(set(_folders(folder)) - set(_folders(split_folder(root, "train") or folder)))
    if unknown:
        raise DataError(
            f"{folder} has classes that {root / 'train'} has not: {', '.join(unknown[:5])}; expected the same classes"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found and split == "train":
            raise DataError(f"no pictures in {folder / name}; add some, or remove the folder if it is no class")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"no pictures in the class folders of {folder}; expected files such as {classes[0]}/1.jpg")
    return StoredImages(EncodedFiles(paths), spec.image_size), torch.tensor(labels, dtype=torch.int64)


def _classes(root: Path, split: str, spec: DatasetSpec) -> list[str]:
    """Return the names of the class folders in the order of their labels."""
    folder = split_folder(root, "train") or split_folder(root, split)
    assert folder is not None
    found, wanted = _folders(folder), len(spec.class_names)
    if len(found) < wanted or (len(found) > wanted and spec.source is None):
        raise DataError(
            f"{folder} has {len(found)} class folders; {spec.name} has {wanted} classes. Expected a folder for each, "
            "with its pictures in it"
        )
    return found[:wanted]


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
