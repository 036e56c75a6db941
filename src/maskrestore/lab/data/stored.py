"""Pictures that stay in their files and are decoded when they are used, so that a split of photographs fits memory."""

from __future__ import annotations

import copy
import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskrestore.errors import DataError

__all__ = ["EncodedFiles", "EncodedRows", "StoredImages", "decode_square"]

_BUDGET = 256 * 2**20
"""Bytes of encoded pictures of parquet files that are kept in memory."""


class _Encoded(Protocol):
    """A sequence of pictures, encoded or not."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[object, str]:
        """Return the content of the file, or the picture ``(3, S, S)`` uint8, and words that tell where it is.

        Raises DataError.
        """

    def paths(self) -> list[str]:
        """Return the path of each picture, as its source names it; empty where there is none."""


class StoredImages:
    """A split of photographs, indexed like a tensor ``(N, 3, S, S)`` uint8. Decodes or renders what is asked for."""

    def __init__(self, encoded: _Encoded, size: int) -> None:
        """size: side S in pixels, see ``decode_square``."""
        self._encoded = encoded
        self._size = size
        self._replaced: dict[int, Tensor] = {}
        self.device = torch.device("cpu")
        """Where decoded pictures go."""

    def __len__(self) -> int:
        return len(self._encoded)

    @property
    def shape(self) -> torch.Size:
        """``(N, 3, S, S)``."""
        return torch.Size((len(self), 3, self._size, self._size))

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """Decode some pictures: ``(B, 3, S, S)`` uint8.

        index: a slice, a list of numbers, or a tensor of numbers ``(B,)`` or of booleans ``(N,)``. Raises DataError for
        a file that is not an image.
        """
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].tolist()
        out = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        for place, row in enumerate(rows):
            out[place] = self._replaced[row] if row in self._replaced else self._decoded(row)
        return out.to(self.device)

    def paths(self) -> list[str]:
        """Return the path of each picture, as its source names it; empty where there is none."""
        return self._encoded.paths()

    def split(self, size: int) -> Iterator[Tensor]:
        """Decode all pictures in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: str | torch.device) -> StoredImages:
        """Return the same split, whose decoded pictures go to ``device``."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def chosen(self, rows: Tensor) -> StoredImages:
        """Return the pictures ``rows`` ``(K,)`` alone."""
        fewer = copy.copy(self)
        fewer._encoded = _Chosen(self._encoded, rows.tolist())
        fewer._replaced = {
            place: self._replaced[row] for place, row in enumerate(rows.tolist()) if row in self._replaced
        }
        return fewer

    def replacing(self, rows: Tensor, images: Tensor) -> StoredImages:
        """Return a split in which the pictures ``rows`` ``(K,)`` are ``images`` ``(K, 3, S, S)`` uint8, in memory."""
        changed = copy.copy(self)
        changed._replaced = {**self._replaced, **dict(zip(rows.tolist(), images.cpu(), strict=True))}
        return changed

    def _decoded(self, row: int) -> Tensor:
        encoded, where = self._encoded[row]
        return encoded if isinstance(encoded, Tensor) else decode_square(encoded, self._size, where, crop=True)


class _Chosen:
    """Some elements of a sequence of encoded pictures."""

    def __init__(self, encoded: _Encoded, rows: list[int]) -> None:
        self._all, self._rows = encoded, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[object, str]:
        return self._all[self._rows[index]]

    def paths(self) -> list[str]:
        """Return the paths of the chosen ones."""
        paths = self._all.paths()
        return [paths[row] for row in self._rows]


class EncodedFiles:
    """A picture a file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[object, str]:
        """Read a file. Raises DataError if it cannot be read."""
        path = self._paths[index]
        try:
            return path.read_bytes(), str(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def paths(self) -> list[str]:
        """Return the path of each file."""
        return [str(path) for path in self._paths]


class EncodedRows:
    """A picture a row of parquet files.

    Reads a group of rows at a time and keeps the latest groups, 256 MiB of them. So a pass in order reads each group
    once. A larger split in random order reads a group for nearly every picture: such a split is better kept in folders.
    """

    def __init__(self, paths: Sequence[Path], files: Sequence[Any], column: str) -> None:
        """paths: for messages. files: ``pyarrow.parquet.ParquetFile``, with a column of structs that have ``bytes``."""
        self._paths = paths
        self._files = files
        self._column = column
        self._groups = [(number, group) for number, file in enumerate(files) for group in range(file.num_row_groups)]
        sizes = [files[number].metadata.row_group(group).num_rows for number, group in self._groups]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[object, str]:
        """Return a row's bytes, or whatever its cell holds instead."""
        number = bisect_right(self._starts, index) - 1
        row = index - self._starts[number]
        cell = self._group(number)[row].as_py()
        file, _ = self._groups[number]
        first = self._starts[self._groups.index((file, 0))]
        return cell.get("bytes") if isinstance(cell, dict) else cell, f"{self._paths[file]}, row {index - first}"

    def paths(self) -> list[str]:
        """Return what the rows have as "path". Does not read the pictures."""
        found: list[str] = []
        for file in self._files:
            cells = file.read([f"{self._column}.path"])
            column = cells[self._column].to_pylist() if cells.num_columns else [None] * file.metadata.num_rows
            found += [(cell or {}).get("path") or "" for cell in column]
        return found

    def _group(self, number: int) -> Any:
        if number not in self._kept:
            file, group = self._groups[number]
            self._kept[number] = self._files[file].read_row_group(group, columns=[self._column])[self._column]
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > _BUDGET:
            self._kept.popitem(last=False)
        return self._kept[number]


def decode_square(encoded: object, size: int, where: str, *, crop: bool) -> Tensor:
    """Decode one image to ``(3, size, size)`` uint8.

    An image of another size is resized bilinearly. crop: resize its shorter side to ``size`` and keep the middle;
    otherwise squash it to a square. Grey images become RGB. Raises DataError, which names ``where`` the image is.
    """
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: expected the bytes of an encoded image, found {type(encoded).__name__}")
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {len(encoded)} bytes cannot be decoded as an image: {error}") from error
    if image.size != (size, size):
        box = _middle(*image.size) if crop else None
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (S, S, 3) -> (3, S, S)


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle of an image: left, top, right, bottom in pixels."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
