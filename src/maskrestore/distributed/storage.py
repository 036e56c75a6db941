"""Files of a job in a folder that all machines share, or behind a URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskrestore.errors import ConfigError, ImageFileError, MissingDependencyError
from maskrestore.jobs.sources.remote_files import file_system, is_remote, without_secrets

__all__ = ["Storage"]

_UNFINISHED = ".part"


class Storage:
    """Files by name. Each is there as a whole or not at all; of two writers of a name the last one counts.

    It can be pickled: each process opens its own connection.
    """

    def __init__(self, place: str | Path) -> None:
        """place: a folder, or a URL that pyarrow or fsspec understands. Nothing is opened yet."""
        self._place = str(place) if is_remote(place) else str(Path(place).resolve())
        self.shown = without_secrets(str(place)) if is_remote(place) else str(place)
        self._opened: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    @property
    def remote(self) -> bool:
        """Whether it is behind a URL."""
        return is_remote(self._place)

    def check(self) -> None:
        """Make sure that files can be written. Raises ConfigError."""
        name = f".{uuid.uuid4().hex}{_UNFINISHED}"
        try:
            self.write(name, b"maskrestore")
            self.delete(name)
        except (OSError, ImageFileError) as error:
            raise ConfigError(
                f"results cannot be written to {self.shown}: {error}; nothing was asked yet; choose another place"
            ) from error

    def read(self, name: str) -> bytes | None:
        """The content of a file, ``None`` if it is not there. Raises OSError."""
        files, root = self._open()
        try:
            with files.open_input_stream(f"{root}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file. Raises OSError, with nothing under this name or what was there before."""
        files, root = self._open()
        path = f"{root}/{name}"
        if self.remote:  # an object appears once it is complete
            files.create_dir(path.rpartition("/")[0], recursive=True)
            with files.open_output_stream(path) as stream:
                stream.write(content)
            return
        folder, _, last = path.rpartition("/")
        Path(folder).mkdir(parents=True, exist_ok=True)
        draft = Path(folder, f".{uuid.uuid4().hex}-{last}{_UNFINISHED}"[-200:])
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there. Raises OSError."""
        files, root = self._open()
        with suppress(FileNotFoundError):
            files.delete_file(f"{root}/{name}")

    def names(self, folder: str) -> Iterator[str]:
        """The files of a folder, as ``FOLDER/NAME``, in order; none if it is not there. Raises OSError."""
        from pyarrow.fs import FileSelector, FileType  # noqa: PLC0415 - an extra

        files, root = self._open()
        found = files.get_file_info(FileSelector(f"{root}/{folder}", allow_not_found=True))
        for name in sorted(one.base_name for one in found if one.type == FileType.File):
            if not name.endswith(_UNFINISHED):
                yield f"{folder}/{name}"

    def open(self, name: str) -> Any:
        """A file of pyarrow, to read and seek in. Raises OSError."""
        files, root = self._open()
        return files.open_input_file(f"{root}/{name}")

    def _open(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        if self._opened is None:
            if self.remote:
                files, root = file_system(self._place, self.shown)
                self._opened = files, root.rstrip("/")
            else:
                self._opened = _local_files(), self._place
        return self._opened


def _local_files() -> Any:
    try:
        from pyarrow.fs import LocalFileSystem  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "ray") from error
    return LocalFileSystem()
