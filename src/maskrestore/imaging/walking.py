"""Find the pictures of a folder, and say of everything else why it is left out."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from maskrestore.errors import ImageFileError
from maskrestore.imaging.formats import START, SUFFIXES, format_of, why_unreadable

__all__ = [
    "DAMAGED",
    "HIDDEN",
    "HIDDEN_FOLDER",
    "LOCKED",
    "LOCKED_FOLDER",
    "NO_PICTURE",
    "PARQUET",
    "TAR",
    "UNREADABLE",
    "find_images",
    "in_words",
    "kind_of_shard",
    "walk_files",
    "walk_images",
    "why_no_picture",
]

HIDDEN, HIDDEN_FOLDER = "hidden file", "hidden folder"
NO_PICTURE = "not a picture"
_NO_FILE = "pipe, socket or device"
_LOOP = "link to a folder around it"
_TWICE = "folder that is read anyway, under another name"
_BROKEN_LINK = "broken link"
LOCKED, LOCKED_FOLDER = "file that cannot be read", "folder that cannot be read"
PARQUET, TAR = "parquet file", "tar file"
"""Files that may hold pictures: shards of a data set."""
_COMPRESSED = "compressed tar file, which is not read (decompress it to .tar)"
DAMAGED = "shard that is damaged or cut off"
UNREADABLE = frozenset((LOCKED, LOCKED_FOLDER, _BROKEN_LINK, DAMAGED))
"""Reasons that are faults: there may have been pictures."""

_SUFFIXES_OF_EXTRAS = frozenset((".avif", ".heic", ".heif", ".hif"))
"""Such files are read with the right packages only."""


def find_images(path: str | Path) -> list[Path]:
    """The pictures that :func:`walk_images` finds, sorted by path; a warning counts what is left out.

    Raises ImageFileError as it does.
    """
    counts: Counter[str] = Counter()
    found = []
    for file, reason in walk_images(path):
        if reason is None:
            found.append(file)
        else:
            counts[reason] += 1
    if counts:
        warnings.warn(f"left out of {path}: {in_words(counts)}", stacklevel=2)
    return sorted(found)


def in_words(counts: Mapping[str, int]) -> str:
    """Counts by reason as a text, the largest first: ``12 not a picture, 1 hidden folder``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def walk_images(path: str | Path, *, leave_out: Collection[Path] = ()) -> Iterator[tuple[Path, str | None]]:
    """Yield every picture below a folder with ``None``, and everything that is left out with the reason.

    A picture is a file whose name ends in one of :data:`~maskrestore.imaging.formats.SUFFIXES` or that begins as one of
    a format that is read. If ``path`` is a file, it is yielded, whatever its content. Files come in no particular order
    and are not collected first, so a folder may hold millions. A hidden folder counts once. Links to folders are
    followed after everything else, in the order of their paths, wherever they lead; each folder is read once, and a
    folder that holds the source not at all.

    leave_out: folders and files to pass over without a word, such as those of the results.

    Raises ImageFileError while iterating: if nothing is at ``path``, if the folder cannot be read, or, at the end, if
    it held no picture.
    """
    path = Path(path)
    if path.is_file():
        yield path, None
        return
    counts: Counter[str | None] = Counter()
    for file, reason in walk_files(path, leave_out=leave_out):
        counts[reason] += 1
        yield file, reason
    if not counts.pop(None, 0):
        left_out = {reason: count for reason, count in counts.items() if reason is not None}
        raise ImageFileError(f"{path}: no images in this folder; left out: {in_words(left_out) or 'nothing'}")


def walk_files(path: Path, *, leave_out: Collection[Path] = ()) -> Iterator[tuple[Path, str | None]]:
    """Do the same for a folder, which may hold no picture. Raises ImageFileError if it cannot be read."""
    if not path.is_dir():
        raise ImageFileError(f"{path}: expected an image or a folder of images, found nothing")
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    for file, reason in _Walk(path, leave_out).files():
        yield Path(file), reason


def kind_of_shard(name: str, start: bytes) -> str | None:
    """What a file is that may hold pictures; ``None`` if it is no such file.

    start: its first :data:`~maskrestore.imaging.formats.START` bytes.
    """
    if start.startswith(b"PAR1"):
        return PARQUET
    if name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return _COMPRESSED
    return TAR if start[257:262] == b"ustar" or name.lower().endswith(".tar") else None


def why_no_picture(name: str, start: Callable[[], bytes]) -> str | None:
    """The reason to leave out a file; ``None`` for what is a picture, or promises to be one.

    start: reads its first :data:`~maskrestore.imaging.formats.START` bytes, if they matter.
    """
    suffix = os.path.splitext(name)[1].lower()
    promised = suffix in SUFFIXES  # if it is broken, that is an error, which is found when it is read
    if promised and suffix not in _SUFFIXES_OF_EXTRAS:
        return None
    begin = start()
    kind = format_of(begin)
    if kind is None:
        return None if promised else kind_of_shard(name, begin) or NO_PICTURE
    return why_unreadable(kind)


class _Walk:
    """One walk below a folder, and what it has seen so far."""

    def __init__(self, source: Path, leave_out: Collection[Path]) -> None:
        self._source = source
        self._leave_out = {Path(os.path.realpath(one)) for one in leave_out}
        self._names_left_out = {one.name for one in self._leave_out}
        self._read: set[tuple[int, int]] = set()
        """Device and number of each folder that was read."""
        self._links: list[str] = []

    def files(self) -> Iterator[tuple[str, str | None]]:
        """What is below the source, then what is behind links."""
        yield from self._below(str(self._source))
        while self._links:
            # Sorted, so that a folder that two links lead to has the same name in every run.
            links, self._links = sorted(self._links), []
            for link in links:
                target, place = Path(link).resolve(), Path(link).parent.resolve()
                if self._leave_out & {target, *target.parents}:
                    continue
                if target in (place, *place.parents, *self._source.resolve().parents):
                    yield link, _LOOP
                else:
                    yield from self._below(link)

    def _below(self, top: str) -> Iterator[tuple[str, str | None]]:
        # Not recursive: a path may have more folders than Python's stack has frames.
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                identity = _identity(folder)
                if identity in self._read:
                    yield folder, _TWICE
                    continue
                with os.scandir(folder) as entries:
                    self._read.add(identity)
                    for entry in entries:
                        yield from self._sorted(entry, folders)
            except FileNotFoundError:  # deleted since its parent was listed
                continue
            except OSError:
                yield folder, LOCKED_FOLDER

    def _sorted(self, entry: os.DirEntry[str], folders: list[str]) -> Iterator[tuple[str, str | None]]:
        """An entry of a folder as picture or left out; another folder is added to ``folders`` or to the links."""
        if entry.name in self._names_left_out and Path(os.path.realpath(entry.path)) in self._leave_out:
            return
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            yield entry.path, HIDDEN_FOLDER if is_folder else HIDDEN
        elif is_folder:
            folders.append(entry.path)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            self._links.append(entry.path)
        else:
            yield entry.path, _why_no_picture(entry)


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _why_no_picture(entry: os.DirEntry[str]) -> str | None:
    """The reason to leave out what is no folder; ``None`` for what is a picture, or promises to be one."""

    def start() -> bytes:
        with open(entry.path, "rb", buffering=0) as stream:
            return stream.read(START)

    promised = os.path.splitext(entry.name)[1].lower() in SUFFIXES
    try:
        if not entry.is_file():
            if not entry.is_symlink():
                return _NO_FILE
            return None if promised else _BROKEN_LINK
        return why_no_picture(entry.name, start)
    except OSError:
        return None if promised else LOCKED
