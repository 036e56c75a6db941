"""Read labelled images from parquet files in the layout of the Hugging Face hub.

An image column contains structs of ``bytes`` (an encoded file: WebP, PNG, JPEG, ...) and ``path``. A label column
contains integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.errors import DataError, MissingDependencyError
from maskrestore.lab.data.specs import DatasetSpec
from maskrestore.lab.data.stored import EncodedRows, StoredImages, decode_square

__all__ = ["read_labelled_images"]


def read_labelled_images(files: Sequence[Path], spec: DatasetSpec) -> tuple[Tensor | StoredImages, Tensor]:
    """Read all rows of ``files``, in order.

    Returns images ``(N, 3, image_size, image_size)`` uint8 and labels ``(N,)`` int64. Small images are decoded into
    memory; photographs are decoded when they are indexed. Grey images are converted to RGB.

    Raises:
        DataError: a file is not parquet or lacks a column, a label is outside ``0 .. num_classes - 1``, there are no
            rows, or, for small images, a cell is not an image.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "lab") from error
    opened: list[Any] = []
    labels: list[int] = []
    for file in files:
        try:
            one = pq.ParquetFile(file)
            for column in (spec.image_column, spec.label_column):
                if column not in one.schema_arrow.names:
                    raise DataError(f"{file} has the columns {one.schema_arrow.names}; expected one named {column!r}")
            labels += one.read([spec.label_column])[spec.label_column].to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file} cannot be read as parquet: {error}") from error
        opened.append(one)
    names, classes = ", ".join(map(str, files)), len(spec.class_names)
    if not labels:
        raise DataError(f"no rows in {names or 'an empty list of files'}; expected images")
    targets = torch.tensor(labels, dtype=torch.int64)
    if targets.min() < 0 or targets.max() >= classes:
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise DataError(f"labels are {found} in {names}; expected 0 to {classes - 1}")
    rows, size = EncodedRows(files, opened, spec.image_column), spec.image_size
    if spec.photographs:
        return StoredImages(rows, size), targets
    images = torch.empty((len(rows), 3, size, size), dtype=torch.uint8)
    for number in range(len(rows)):
        encoded, where = rows[number]
        images[number] = decode_square(encoded, size, where, crop=False)
    return images, targets
