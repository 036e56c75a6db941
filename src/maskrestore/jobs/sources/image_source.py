"""A source of named images: what there is, by names that stay the same, and each image on its own."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

from maskrestore.errors import ImageFileError
from maskrestore.imaging.walking import LOCKED, PARQUET, TAR, in_words
from maskrestore.jobs.sources.local_files import LocalFiles
from maskrestore.jobs.sources.parquet_rows import ParquetRows
from maskrestore.jobs.sources.remote_files import RemoteFiles, is_remote
from maskrestore.jobs.sources.tar_members import list_members, read_member

__all__ = ["Found", "ImageReader", "ImageSource", "Place"]

Place = tuple[str | int, ...]
"""Where a shard holds an image: ``(shard, row)``, or ``(shard, first byte, bytes)``; empty for a file of its own."""

_BESIDE = "shard beside pictures (its images are purified if it is named as the source)"


class Found(NamedTuple):
    """An image of a source, or something that is left out."""

    name: str
    """Unique in the source, with forward slashes: ``sub/a.jpg``, ``train.parquet/000000012``, ``0.tar/dog/7.jpg``."""
    left_out: str | None = None
    """Why it is left out; ``None`` for an image."""
    place: Place = ()


class Files(Protocol):
    """The files of a source, wherever they are."""

    shown: str
    """The source for messages, without secrets."""

    def walk(self) -> Iterator[tuple[str, str | None]]:
        """The name of each picture with ``None``, and everything else with the reason to leave it out."""

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in. Raises ImageFileError or OSError."""


class ImageSource:
    """Pictures in a folder, or in the shards of one: parquet files with an image column, and tar files of WebDataset.

    What a file is, its content says. A folder that holds pictures is a folder of pictures: shards in it are left out.
    Another process gets the same names and places: a source can be pickled.
    """

    def __init__(
        self, source: str | Path, *, image_column: str | None = None, leave_out: Collection[Path] = ()
    ) -> None:
        """source: a file, a folder, or a URL that pyarrow or fsspec understands.

        image_column: of parquet files; ``None`` if there is only one. leave_out: files and folders of the local disk to
        pass over without a word.
        """
        self._files: Files = RemoteFiles(str(source)) if is_remote(source) else LocalFiles(Path(source), leave_out)
        self._image_column = image_column

    @property
    def shown(self) -> str:
        """The source for messages, without secrets."""
        return self._files.shown

    @property
    def title(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.shown).name

    def images(self) -> Iterator[Found]:
        """Every image, and everything that is left out. Files come in no particular order.

        Raises ImageFileError if there is no image, ConfigError for a column of images that is missing or ambiguous, and
        MissingDependencyError.
        """
        shards: list[tuple[str, str]] = []
        left_out: Counter[str] = Counter()
        pictures = 0
        for name, reason in self._files.walk():
            if reason in (PARQUET, TAR):
                shards.append((name, reason))
                continue
            pictures += reason is None
            left_out.update(() if reason is None else (reason,))
            yield Found(name, reason)
        if pictures:
            yield from (Found(name, _BESIDE) for name, _ in shards)
            return
        for name, kind in sorted(shards):
            for one in self._images_of(name, kind):
                pictures += one.left_out is None
                left_out.update(() if one.left_out is None else (one.left_out,))
                yield one
        if not pictures:
            where = "these shards" if shards else "this folder"
            raise ImageFileError(f"{self.shown}: no images in {where}; left out: {in_words(left_out) or 'nothing'}")

    def reader(self) -> ImageReader:
        """Opens images, in this process or another. The caller closes it."""
        return ImageReader(self._files, self._image_column)

    def _images_of(self, shard: str, kind: str) -> Iterator[Found]:
        try:
            stream = self._files.open(shard)
        except (OSError, ImageFileError):
            yield Found(shard, LOCKED)
            return
        with stream:
            if kind == TAR:
                for member in list_members(stream):
                    place = (shard, member.start, member.size)
                    yield Found(f"{shard}/{member.name}" if member.name else shard, member.left_out, place)
                return
            rows = ParquetRows(stream, shard, self._image_column)
            if rows.unusable is not None:
                yield Found(shard, rows.unusable)
            # Names do not depend on the number of rows: rows may be added.
            yield from (Found(f"{shard}/{row:09}", None, (shard, row)) for row in range(len(rows)))


class ImageReader:
    """Opens images of a source, each on its own, from any thread. It keeps the shard open that it read last.

    Images of a shard are read fastest in the order of their places.
    """

    def __init__(self, files: Files, image_column: str | None) -> None:
        self._files, self._image_column = files, image_column
        self._lock = threading.Lock()
        self._shard = ""
        self._stream: BinaryIO | None = None
        self._rows: ParquetRows | None = None

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, image: Found) -> BinaryIO:
        """The encoded image, to read and seek in. Raises ImageFileError or OSError."""
        name = image.name
        match image.place:
            case ():
                return self._files.open(name)
            case (str(shard), int(row)):
                return self._read(shard, lambda stream: self._rows_of(stream, shard).read(row, name))
            case (str(shard), int(start), int(size)):
                return self._read(shard, lambda stream: read_member(stream, start, size, name))
        raise ValueError(f"expected the place of an image, got {image.place}")

    def close(self) -> None:
        """Close the shard that is open."""
        with self._lock:
            self._close()

    def _read(self, shard: str, read: Callable[[BinaryIO], bytes]) -> BinaryIO:
        with self._lock:
            try:
                if self._stream is None or shard != self._shard:
                    self._close()
                    self._stream, self._shard = self._files.open(shard), shard
                return io.BytesIO(read(self._stream))
            except OSError:
                self._close()  # a connection that broke is opened anew for the next image
                raise

    def _rows_of(self, stream: BinaryIO, shard: str) -> ParquetRows:
        if self._rows is None:
            self._rows = ParquetRows(stream, shard, self._image_column)
            if self._rows.unusable is not None:
                raise ImageFileError(f"{shard}: {self._rows.unusable}")
        return self._rows

    def _close(self) -> None:
        stream, self._stream, self._rows = self._stream, None, None
        if stream is not None:
            stream.close()
