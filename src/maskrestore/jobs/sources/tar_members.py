"""Images in a tar file, as WebDataset makes them: the members of a sample share a name up to its first dot.

Nothing is unpacked: members are read by their place in the file, and their names are names only.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from maskrestore.errors import ImageFileError
from maskrestore.imaging.formats import START
from maskrestore.imaging.walking import DAMAGED, HIDDEN, NO_PICTURE, why_no_picture

__all__ = ["Member", "list_members", "read_member"]

MAX_BYTES = 2**29
"""Of an encoded image in a shard, which is read as a whole."""

_MAX_HEADER_BYTES = 2**20
"""Of a header with its extensions. A hostile one may claim any size, and tarfile reads it as a whole."""

_LINK, _SPARSE, _OUTSIDE = "link in a tar file", "sparse file in a tar file", "name that leads out of its tar file"


@dataclass(frozen=True, kw_only=True)
class Member:
    """An image in a tar file, or something that is left out."""

    name: str
    """Unique in the tar file; empty for the tar file itself."""
    left_out: str | None = None
    start: int = 0
    """The first byte of its content."""
    size: int = 0


def list_members(stream: BinaryIO) -> Iterator[Member]:
    """Every image in a tar file and everything that is left out, in the order of the file.

    What belongs to the sample of an image, such as its label, is no image and is passed over. A second member of the
    same name is another image, ``a (2).jpg``. The last one is the tar file, if it is damaged.
    """
    taken: dict[str, int] = {}
    sample: list[Member] = []
    key, has_image = "", False
    for member in _members(stream):
        *_, last = member.name.rpartition("/")
        own = member.name[: len(member.name) - len(last)] + last.partition(".")[0]
        if own != key:
            yield from () if has_image else sample
            key, has_image, sample = own, False, []
        unique = replace(member, name=_unique(member.name, taken))
        if member.left_out == NO_PICTURE:
            sample.append(unique)
            continue
        has_image |= member.left_out is None
        yield unique
    yield from () if has_image else sample


def read_member(stream: BinaryIO, start: int, size: int, name: str) -> bytes:
    """The content of a member. name: of the image, for errors. Raises ImageFileError and OSError."""
    if size > MAX_BYTES:
        raise ImageFileError(f"{name}: {size} bytes, expected an image of at most {MAX_BYTES}")
    stream.seek(start)
    content = stream.read(size)
    if len(content) < size:
        raise ImageFileError(f"{name}: the tar file is cut off: {len(content)} bytes instead of {size}")
    return content


def _members(stream: BinaryIO) -> Iterator[Member]:
    try:
        with tarfile.TarFile(fileobj=cast("BinaryIO", _Headers(stream))) as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # else all are kept
                if not info.isdir():
                    yield _member(stream, info)
            stream.seek(archive.offset)
            whole = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        whole = False
    if not whole:  # without the zeros at the end, whoever wrote it did not finish
        yield Member(name="", left_out=DAMAGED)


def _member(stream: BinaryIO, info: tarfile.TarInfo) -> Member:
    def start() -> bytes:
        stream.seek(info.offset_data)
        return stream.read(min(START, info.size))

    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if not parts or ".." in parts or "\0" in name:
        return Member(name=info.name.replace("\0", "?") or "?", left_out=_OUTSIDE)
    if info.issparse():
        return Member(name=name, left_out=_SPARSE)
    if not info.isreg():
        return Member(name=name, left_out=_LINK)
    if any(part.startswith(".") for part in parts):
        return Member(name=name, left_out=HIDDEN)
    return Member(name=name, left_out=why_no_picture(name, start), start=info.offset_data, size=info.size)


def _unique(name: str, taken: dict[str, int]) -> str:
    if name == "" or name not in taken:
        taken[name] = 1
        return name
    path = PurePosixPath(name)
    while (other := str(path.with_name(f"{path.stem} ({taken[name] + 1}){path.suffix}"))) in taken:
        taken[name] += 1
    taken[name] += 1
    taken[other] = 1
    return other


class _Headers(io.RawIOBase):
    """A file of which tarfile reads headers only."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True
