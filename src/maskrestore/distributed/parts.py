"""A job in parts: some images each, worked on at one place, and recorded together."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from maskrestore.distributed.storage import Storage
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.sources import Found, Place

__all__ = ["Outcome", "Part", "PartImage", "PartLog", "parts_of"]

_FOLDER = "parts"
_DELETED_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class PartImage:
    """An image of a part."""

    name: str
    output: str
    """The name of its results."""
    place: Place
    known: dict[str, Any]
    """Of the record of an earlier run what tells whether the image is done; see ``is_done``."""

    @property
    def found(self) -> Found:
        """The image, as its source names it."""
        return Found(self.name, place=tuple(self.place))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that one worker purifies and records together."""

    id: str
    images: tuple[PartImage, ...]

    def to_row(self) -> dict[str, str]:
        """A row of a data set of Ray."""
        return {"id": self.id, "images": json.dumps([asdict(image) for image in self.images])}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Part:
        """The part of a row."""
        return cls(id=row["id"], images=tuple(PartImage(**image) for image in json.loads(row["images"])))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a part."""

    id: str
    images: int
    """Of the part."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Of images that were purified, or that failed."""
    worker: str = ""
    passed_over: bool = False
    """The job is to end: nothing was begun."""
    stopped: str | None = None
    """Why the job must end, if it must."""

    def to_row(self) -> dict[str, str]:
        """A row of a data set of Ray."""
        return {"outcome": json.dumps(asdict(self))}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Outcome:
        """The outcome of a row."""
        return cls(**json.loads(row["outcome"]))


class PartLog:
    """The records of finished parts, in files. A part is finished once its file is there.

    Files stay until the job has ended: a part may be tried again although it is finished, because its worker died
    before it could say so.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, part: str) -> list[dict[str, Any]] | None:
        """The records of a part, ``None`` if it is not finished. Raises OSError."""
        content = self._storage.read(_name(part))
        return None if content is None else [json.loads(line) for line in content.splitlines()]

    def write(self, part: str, records: Iterable[dict[str, Any]]) -> None:
        """Finish a part. Raises OSError."""
        lines = [json.dumps(record) + "\n" for record in records]
        self._storage.write(_name(part), "".join(lines).encode())

    def absorb(self, records: ImageRecords, config_digest: str, taken: Collection[str] = ()) -> list[str]:
        """Add what finished parts say of these settings; returns the files of all parts. Raises OSError.

        taken: parts whose records are there. Others are of a run that was killed.
        """
        files = list(self._storage.names(_FOLDER))
        known = set(map(_name, taken))
        for name in files:
            for line in [] if name in known else (self._storage.read(name) or b"").splitlines():
                record = json.loads(line)
                if record["config_digest"] == config_digest and not _has_result(records, record["file"], config_digest):
                    records.add(record, new=False)
        return files

    def forget(self, files: Iterable[str]) -> None:
        """Delete files of parts whose records are kept elsewhere. Raises OSError."""
        with ThreadPoolExecutor(_DELETED_AT_ONCE) as pool:
            list(pool.map(self._storage.delete, files))


def _has_result(records: ImageRecords, name: str, config_digest: str) -> bool:
    try:
        known = records.record(name)
    except KeyError:
        return False
    return bool(known.get("config_digest") == config_digest and known["error"] is None)


def _name(part: str) -> str:
    return f"{_FOLDER}/{part}.jsonl"


def parts_of(
    records: ImageRecords, run: str, size: int, known_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[Part]:
    """All images of a job in parts, those that failed in an earlier run last.

    run: a name that no other run has. size: images in a part. known_of: what tells whether an image is done, of its
    record; empty if it is not.
    """
    images: list[PartImage] = []
    number = 0
    for name, output, record in records.images_failed_last():
        place = records.found(name).place
        images.append(PartImage(name=name, output=output, place=place, known=known_of(record)))
        if len(images) == size:
            yield Part(id=f"{run}-{number:08}", images=tuple(images))
            images, number = [], number + 1
    if images:
        yield Part(id=f"{run}-{number:08}", images=tuple(images))
