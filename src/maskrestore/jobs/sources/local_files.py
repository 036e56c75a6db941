"""The files of a source on the local disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from maskrestore.imaging.codec import open_image_file
from maskrestore.imaging.formats import START
from maskrestore.imaging.walking import kind_of_shard, walk_files

__all__ = ["LocalFiles"]


class LocalFiles:
    """A file, or what :func:`~maskrestore.imaging.walking.walk_files` finds below a folder."""

    def __init__(self, source: Path, leave_out: Collection[Path]) -> None:
        self.shown = str(source)
        self._source, self._leave_out = source, leave_out

    def walk(self) -> Iterator[tuple[str, str | None]]:
        """As :class:`~maskrestore.jobs.sources.image_source.Files` says."""
        if self._source.is_file():
            yield self._source.name, self._kind()
            return
        for file, reason in walk_files(self._source, leave_out=self._leave_out):
            yield file.relative_to(self._source).as_posix(), reason

    def open(self, name: str) -> BinaryIO:
        """As :class:`~maskrestore.jobs.sources.image_source.Files` says."""
        return open_image_file(self._source if self._source.is_file() else self._source / name)

    def _kind(self) -> str | None:
        """``None`` for a picture, as which any file is taken that is no shard."""
        try:
            with self._source.open("rb") as stream:
                return kind_of_shard(self._source.name, stream.read(START))
        except OSError:
            return None
