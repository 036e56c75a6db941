"""Images in a parquet file, as the data sets of the Hugging Face hub hold them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, BinaryIO

from maskrestore.errors import ConfigError, ImageFileError, MissingDependencyError
from maskrestore.imaging.walking import DAMAGED

__all__ = ["ParquetRows"]

_ROWS = 8
"""Rows that are read at a time."""

_BUFFER = 2**20


class ParquetRows:
    """The encoded images of a column: of structs of ``bytes`` and ``path``, or of bytes.

    Rows are read fastest in order. Memory holds a few rows and a page of the file, which may be large: pyarrow
    begins a new page after 1024 rows at the earliest, unless whoever writes a file asks for less.
    """

    def __init__(self, stream: BinaryIO, name: str, column: str | None = None) -> None:
        """column: ``None`` for the only column of images.

        Raises ConfigError if there is no such column, or if there are several; MissingDependencyError.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError("pyarrow", "sources") from error
        self.unusable: str | None = None
        """Why there is no image, if so."""
        self._starts = [0]
        """The first row of each row group, and the number of rows."""
        self._errors = (pa.ArrowException, OSError)
        self._first, self._group = 0, -1
        self._batch: Any = []
        self._batches: Iterator[Any] = iter(())
        try:
            self._file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
            schema = self._file.schema_arrow
        except self._errors:
            self.unusable = DAMAGED
            return
        found = _image_columns(schema)
        if column is not None and column not in schema.names:
            raise ConfigError(f"{name}: no column {column!r}, it has: {', '.join(schema.names)}")
        if column is None and len(found) > 1:
            raise ConfigError(f"{name}: several columns of images: {', '.join(found)}; choose one with --image-column")
        if column is None and not found:
            self.unusable = f"parquet file without a column of images (its columns: {', '.join(schema.names)})"
            return
        self._column = column or found[0]
        metadata = self._file.metadata
        groups = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        self._starts = list(accumulate(groups, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, row: int, name: str) -> bytes:
        """The encoded image of a row. name: of the image, for errors.

        Raises ImageFileError if there is none, or if the file is damaged there.
        """
        try:
            if not self._first <= row < self._first + len(self._batch):
                self._go_to(row)
            cell = self._batch[row - self._first].as_py()
        except (*self._errors, StopIteration) as error:
            self._group = -1
            raise ImageFileError(f"{name}: the parquet file is damaged there: {error}") from error
        path = cell.get("path") if isinstance(cell, dict) else None
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(encoded, bytes):
            return encoded
        if encoded is None:
            found = "nothing (null)" if path is None else f"only a path, {path!r}; embed the pictures in the file"
            raise ImageFileError(f"{name}: expected a picture, found {found}")
        raise ImageFileError(f"{name}: expected an encoded picture, found {type(encoded).__name__}")

    def _go_to(self, row: int) -> None:
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._first:
            self._batches = self._file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[self._column])
            self._group, self._first, self._batch = group, self._starts[group], []
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            self._batch = next(self._batches).column(0)


def _image_columns(schema: Any) -> list[str]:
    """Columns that the hub's metadata calls images; else structs with ``bytes``; else columns of bytes."""
    told = [name for name in _told_by_the_hub(schema.metadata) if name in schema.names]
    structs = [field.name for field in schema if _has_bytes(field.type)]
    plain = [field.name for field in schema if _is_binary(field.type)]
    return told or structs or plain


def _told_by_the_hub(metadata: dict[bytes, bytes] | None) -> list[str]:
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []  # another program wrote the file


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    return pa.types.is_struct(kind) and any(one.name == "bytes" and _is_binary(one.type) for one in kind)


def _is_binary(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")
