"""Labelled images: CIFAR-10 and GTSRB from parquet files, and rendered street signs."""

from __future__ import annotations

from pathlib import Path

from maskrestore.errors import DataError, UnknownNameError
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.data.folder import DATA_VARIABLE, data_folder, local_files
from maskrestore.lab.data.hub import hub_files
from maskrestore.lab.data.parquet import read_labelled_images
from maskrestore.lab.data.specs import DATASETS, SPLITS, DatasetSpec, dataset_spec

__all__ = ["DATASETS", "DATA_VARIABLE", "DatasetSpec", "ImageDataset", "dataset_spec", "load_dataset"]


def load_dataset(name: str, split: str, *, folder: Path | str | None = None) -> ImageDataset:
    """Load a split into memory.

    Args:
        name: a key of ``DATASETS``.
        split: "train" or "test".
        folder: contains ``<name>/**/<split>-*.parquet``. The default is the folder in the environment variable
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

        return load_signs(split)
    root = data_folder(folder)
    if root is not None:
        files = local_files(spec, split, root)
    elif spec.repository is not None:
        files = hub_files(spec.repository, split)
    else:
        raise DataError(
            f"{name} is not on the hub: pass the folder that contains {name}/, or set {DATA_VARIABLE} to it"
        )
    images, labels = read_labelled_images(
        files,
        image_column=spec.image_column,
        label_column=spec.label_column,
        image_size=spec.image_size,
        num_classes=len(spec.class_names),
    )
    return ImageDataset(name=name, images=images, labels=labels, class_names=spec.class_names)
