"""Labelled images: from parquet files or folders of classes, and rendered street signs."""

from __future__ import annotations

from pathlib import Path

from maskrestore.errors import DataError, UnknownNameError
from maskrestore.lab.data.class_folders import read_class_folders, split_folder
from maskrestore.lab.data.dataset import ImageDataset, images_at_once, part_for_choices, replacing
from maskrestore.lab.data.folder import DATA_VARIABLE, data_folder, dataset_folder, local_files
from maskrestore.lab.data.hub import hub_files
from maskrestore.lab.data.parquet import read_labelled_images
from maskrestore.lab.data.specs import DATASETS, SPLITS, DatasetSpec, dataset_spec
from maskrestore.lab.data.stored import StoredImages

__all__ = [
    "DATASETS",
    "DATA_VARIABLE",
    "DatasetSpec",
    "ImageDataset",
    "StoredImages",
    "dataset_spec",
    "images_at_once",
    "load_dataset",
    "replacing",
]


def load_dataset(name: str, split: str, *, folder: Path | str | None = None) -> ImageDataset:
    """Load a split: small images into memory; large ones are decoded or rendered when they are indexed.

    Args:
        name: a key of ``DATASETS``.
        split: "train" or "test".
        folder: contains ``<name>/<split>/CLASS/*.jpg`` (the test split may be called val) or
            ``<name>/**/<split>-*.parquet``. The default is the folder in the environment variable
            ``MASKRESTORE_DATA``; without it, files are downloaded from the Hugging Face hub. Rendered data sets
            ignore it.

    Returns:
        The split, with images ``(N, 3, image_size, image_size)`` uint8 and labels ``(N,)`` int64.

    Raises:
        UnknownNameError: the data set or the split is unknown.
        DataError: files are missing, cannot be downloaded or have an unexpected content.
        MissingDependencyError: pyarrow or, to download, huggingface_hub is not installed.
    """
    spec = dataset_spec(name)
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if spec.rendered:
        from maskrestore.lab.data.signs import load_signs  # noqa: PLC0415 - rendering is rarely needed

        count = spec.train_count if split == "train" else spec.test_count
        return load_signs(split, count=count, size=spec.image_size)
    if spec.for_choices:
        assert spec.source is not None
        return part_for_choices(load_dataset(spec.source, "train", folder=folder), spec, split)
    root = data_folder(folder)
    if root is not None and split_folder(place := dataset_folder(spec, root), split) is not None:
        stored, labels = read_class_folders(place, split, spec)
        images = stored if spec.photographs else stored[:]
        return ImageDataset(name=name, images=images, labels=labels, class_names=spec.class_names)
    if root is not None:
        files = local_files(spec, split, root)
    elif spec.repository is not None:
        files = hub_files(spec.repository, split)
    else:
        raise DataError(
            f"{name} is local: pass the folder that contains {spec.source or name}/, or set {DATA_VARIABLE} to it"
        )
    images, labels = read_labelled_images(files, spec)
    return ImageDataset(name=name, images=images, labels=labels, class_names=spec.class_names)
