"""Write the results of one image, and make its record."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrestore.errors import InvalidImageError
from maskrestore.imaging.codec import is_grey, write_png
from maskrestore.jobs.answering import answered
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.job_files import JobFile
from maskrestore.jobs.result_files import (
    answer,
    load_purification,
    make_result_folders,
    save_purification,
    suspicion_of,
)
from maskrestore.jobs.sources import ImageReader
from maskrestore.types import Purification

__all__ = ["Saved", "add_full_size", "failure", "save_result"]

_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""Errors that the next image would get, too: the job stops at once."""

_NOT_IN_FULL_SIZE = "could not be written in full size"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What became of a result."""

    record: dict[str, Any]
    unwritten: bool = False
    """Its files could not be written."""
    disk_failed: bool = False
    """Nor could those of others."""


def save_result(job: FolderJob, reader: ImageReader, file: JobFile, result: Purification, seconds: float) -> Saved:
    """Write the files of a result and make its record, which is to be written after the files."""
    try:
        saved = save_purification(job.out, file.output, result, bits=file.bits, single_query=job.single_query)
        if job.full_size:
            with reader.open(file.image) as stream:
                whole = job.decode(stream, file.image.name)
            saved |= _save_full_size(job, file.output, whole.pixels, result, file.bits)
    except (InvalidImageError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        paid_for = answer(result, single_query=job.single_query) | {"suspicion": suspicion_of(result)}
        return Saved(
            record=answered({**failure(job, file.image.name, error), **paid_for}, job.on_doubt, job.doubt_limit),
            unwritten=True,
            disk_failed=isinstance(cause, OSError) and cause.errno in _DISK_ERRORS,
        )
    restorer = getattr(job.restorer_for(result.images[0]), "name", None)
    record = {
        "file": file.image.name,
        "content": file.content,
        **saved,
        "suspicion": suspicion_of(result),
        **({} if restorer is None else {"restorer": restorer}),
        "notes": [*file.notes, *saved["notes"]],
        "seconds": round(seconds, 6),
        **_identity(job),
        "error": None,
    }
    return Saved(record=answered(record, job.on_doubt, job.doubt_limit))


def add_full_size(
    job: FolderJob, records: ImageRecords, reader: ImageReader, output: str, record: dict[str, Any]
) -> None:
    """Write a picture in full size from the result of an earlier run, if it is not there yet.

    If that fails, the record says so and the result stays: it was paid for.
    """
    if "full_size" in record and (job.out / record["full_size"]).exists():
        return
    notes = [note for note in record.get("notes", ()) if note != _NOT_IN_FULL_SIZE]
    try:
        with reader.open(records.found(record["file"])) as stream:
            whole = job.decode(stream, record["file"])
        make_result_folders(job.out, output, full_size=True)
        result = load_purification(job.out, record, keep_grey=job.keep_grey)
        added = {**_save_full_size(job, output, whole.pixels, result, whole.bits), "notes": notes}
    except (InvalidImageError, OSError):
        added = {"notes": [*notes, _NOT_IN_FULL_SIZE]}
    records.add({**record, **added}, new=False)


def _save_full_size(job: FolderJob, output: str, whole: Tensor, result: Purification, bits: int) -> dict[str, str]:
    """Write a picture ``(C, H, W)`` with what was restored; returns the fields for its record."""
    purified = result.images[0]
    if job.view is not None:
        purified = whole if result.hidden is None else job.view.paste(whole, purified, result.hidden[0])
    path = Path("full", output + ".png")
    write_png(job.out / path, purified, bits=bits if is_grey(purified) else 8)
    return {"full_size": path.as_posix()}


def failure(job: FolderJob, name: str, error: Exception) -> dict[str, Any]:
    """The record of an image without a result."""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"file": name, **_identity(job), "error": message}


def _identity(job: FolderJob) -> dict[str, str]:
    return {"key_fingerprint": job.key_fingerprint, "config_digest": job.config_digest}
