"""The images of a job: which are done, and reading those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.result_files import make_result_folders
from maskrestore.jobs.sources import Found, ImageReader
from maskrestore.runtime.digests import digest_of_stream
from maskrestore.types import StreamItem

__all__ = ["JobFile", "is_done", "read_job_file"]

_FAR_LARGER = 4
"""How many times as large as the restorer's images an image may be before the record says so."""


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """An image that is to be purified."""

    image: Found
    output: str
    """The name of its results."""
    content: str
    """Digest of the bytes of the file. A changed file is purified again."""
    bits: int
    """8 or 16: of each value of its pixels."""
    notes: tuple[str, ...]
    passed: int
    """Number of files up to this one, including those that are already done."""


def read_job_file(job: FolderJob, reader: ImageReader, image: Found, output: str, passed: int = 0) -> StreamItem:
    """Read an image and make the folders for its results. The id of the item is a :class:`JobFile`.

    Raises InvalidImageError and OSError.
    """
    with reader.open(image) as stream:
        read = job.decode(stream, image.name)  # before the digest: it refuses huge files
        content = digest_of_stream(stream)
    make_result_folders(job.out, output, full_size=job.full_size)  # before the query
    pixels = job.shown(read.pixels)
    size = getattr(getattr(job.restorer_for(pixels), "network", None), "image_size", None)
    far_larger = size is not None and max(pixels.shape[-2:]) > _FAR_LARGER * size
    notes = (*read.notes, f"far larger than the restorer's {size} x {size} pixels") if far_larger else read.notes
    file = JobFile(image=image, output=output, content=content, bits=read.bits, notes=notes, passed=passed)
    return StreamItem(id=file, image=pixels)


def is_done(job: FolderJob, reader: ImageReader, image: Found, record: dict[str, Any]) -> bool:
    """Whether the record tells of a result of these settings, for the image as it is now. Raises OSError."""
    if job.again or record.get("error") is not None or record.get("config_digest") != job.config_digest:
        return False
    written = [job.out / record[entry] for entry in ("output", "maps") if record.get(entry)]
    if not all(path.exists() for path in written):
        return False
    with reader.open(image) as stream:
        return bool(record.get("content") == digest_of_stream(stream))
