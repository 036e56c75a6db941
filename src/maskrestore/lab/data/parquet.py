"""Read labelled images from parquet files in the layout of the Hugging Face hub.

An image column contains structs of ``bytes`` (an encoded file: WebP, PNG, JPEG, ...) and ``path``. A label column
contains integers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskrestore.errors import DataError, MissingDependencyError

__all__ = ["read_labelled_images"]


def read_labelled_images(
    files: Sequence[Path],
    *,
    image_column: str,
    label_column: str,
    image_size: int,
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Decode all rows of ``files``, in order.

    Returns images ``(N, 3, image_size, image_size)`` uint8 and labels ``(N,)`` int64. Grey images are converted to
    RGB; images of another size are resized bilinearly.

    Raises:
        DataError: a file is not parquet or lacks a column, a cell is not an image, a label is outside
            ``0 .. num_classes - 1``, or there are no rows.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "lab") from error
    images: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    labels: list[int] = []
    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file} cannot be read as parquet: {error}") from error
        for column in (image_column, label_column):
            if column not in table.column_names:
                raise DataError(f"{file} has the columns {table.column_names}; expected one named {column!r}")
        for row, cell in enumerate(table[image_column]):
            images.append(_decode(cell.as_py(), image_size, f"{file}, row {row}"))
        labels += table[label_column].to_pylist()
    if not images:
        raise DataError(f"no rows in {', '.join(map(str, files)) or 'an empty list of files'}; expected images")
    targets = torch.tensor(labels, dtype=torch.int64)
    if targets.min() < 0 or targets.max() >= num_classes:
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise DataError(f"labels are {found} in {', '.join(map(str, files))}; expected 0 to {num_classes - 1}")
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).contiguous(), targets  # (N, S, S, 3) -> (N, 3, S, S)


def _decode(cell: object, size: int, where: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode one image to ``(size, size, 3)`` uint8. Raises DataError, which names ``where`` the cell is."""
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: expected the bytes of an encoded image, found {type(encoded).__name__}")
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {len(encoded)} bytes cannot be decoded as an image: {error}") from error
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)
