"""The files of a source behind a URL: any file system that pyarrow has, or that fsspec has."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from maskrestore.errors import ConfigError, ImageFileError, MissingDependencyError
from maskrestore.imaging.formats import START
from maskrestore.imaging.walking import HIDDEN, HIDDEN_FOLDER, LOCKED, LOCKED_FOLDER, kind_of_shard, why_no_picture

__all__ = ["RemoteFiles", "file_system", "is_remote", "without_secrets"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_BUFFER = 2**20
"""Bytes that are asked for at a time: requests take longer than a megabyte does."""


def is_remote(source: str | Path) -> bool:
    """Whether a source is a URL."""
    return isinstance(source, str) and _URL.match(source) is not None


def without_secrets(url: str) -> str:
    """A URL without user, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class RemoteFiles:
    """A file behind a URL, or all files below it. The names of one folder at a time are in memory."""

    def __init__(self, url: str) -> None:
        self.shown = without_secrets(url)
        self._url = url
        self._opened: tuple[Any, str, bool] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}  # a connection stays in its process

    def walk(self) -> Iterator[tuple[str, str | None]]:
        """As :class:`~maskrestore.jobs.sources.image_source.Files` says.

        Raises ConfigError for a URL that nothing understands, ImageFileError if nothing is there.
        """
        from pyarrow.fs import FileSelector, FileType  # noqa: PLC0415 - an extra

        files, root, is_file = self._open()
        if is_file:
            name = root.rpartition("/")[2]
            with self.open(name) as stream:
                yield name, kind_of_shard(name, stream.read(START))
            return
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                found = files.get_file_info(FileSelector(folder))
            except OSError as error:
                if folder == root:
                    raise ImageFileError(f"{self.shown}: cannot be read: {error}") from error
                yield _below(root, folder), LOCKED_FOLDER
                continue
            for one in found:
                name = _below(root, one.path)
                if one.base_name.startswith("."):
                    yield name, HIDDEN_FOLDER if one.type == FileType.Directory else HIDDEN
                elif one.type == FileType.Directory:
                    folders.append(one.path)
                else:
                    yield name, self._why_no_picture(name)

    def open(self, name: str) -> BinaryIO:
        """As :class:`~maskrestore.jobs.sources.image_source.Files` says."""
        files, root, is_file = self._open()
        try:
            opened = files.open_input_file(root if is_file else f"{root.rstrip('/')}/{name}")
        except OSError:
            raise
        except Exception as error:  # those of fsspec raise errors of many packages
            raise ImageFileError(f"{self.shown}: {name} cannot be read: {error}") from error
        return cast("BinaryIO", io.BufferedReader(opened, _BUFFER))

    def _why_no_picture(self, name: str) -> str | None:
        def start() -> bytes:
            with self.open(name) as stream:
                return stream.read(START)

        try:
            return why_no_picture(name, start)
        except (OSError, ImageFileError):
            return LOCKED

    def _open(self) -> tuple[Any, str, bool]:
        """The file system, the path in it, and whether that is a file."""
        if self._opened is None:
            files, root = file_system(self._url, self.shown)
            try:
                info = files.get_file_info(root)
            except Exception as error:  # those of fsspec raise errors of many packages
                raise ImageFileError(f"{self.shown}: cannot be read: {error}") from error
            if info.type.name == "NotFound":
                raise ImageFileError(f"{self.shown}: expected images, found nothing")
            self._opened = files, root, info.type.name == "File"
        return self._opened


def _below(root: str, path: str) -> str:
    return path.removeprefix(root.rstrip("/")).lstrip("/")


def file_system(url: str, shown: str) -> tuple[Any, str]:
    """The file system of pyarrow that a URL means, and the path in it. shown: the URL for messages, without secrets.

    Raises ConfigError, ImageFileError and MissingDependencyError.
    """
    if url.lower().startswith("file:"):
        raise ConfigError(f"{shown}: expected a path for what is on this machine, not a URL")
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "sources") from error
    try:
        found: tuple[Any, str] = FileSystem.from_uri(url)
        return found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # fsspec may know it
    except OSError as error:
        raise ImageFileError(f"{shown}: cannot be read: {error}") from error
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError("fsspec", "sources") from error
    try:
        files, root = url_to_fs(url)
    except (ImportError, ValueError) as error:  # fsspec says which package is missing
        raise ConfigError(f"{shown}: neither pyarrow nor fsspec can open this URL: {error}") from error
    return PyFileSystem(FSSpecHandler(files)), root
