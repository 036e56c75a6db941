"""Write the results of images, and record each after its files are written."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.errors import InvalidImageError
from maskrestore.imaging.codec import is_grey, write_png
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import answer, load_purification, make_result_folders, save_purification
from maskrestore.jobs.sources import Found, ImageReader
from maskrestore.types import Purification, StreamResult

__all__ = ["JobFile", "Recorder", "add_full_size", "failure"]

_PARALLEL_WRITE_PIXELS = 2**14
"""Images with this many pixels or more are written by several threads. For smaller ones, threads cost more time than
they save."""

_MAX_UNWRITTEN = 5
"""The job stops if the results of so many images in a row cannot be written."""

_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""Errors that the next image would get, too: the job stops at once."""

_NOT_IN_FULL_SIZE = "could not be written in full size"


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


class Recorder:
    """Writes results, large ones in parallel, and records each after its files are written, in order.

    When the context ends, even by an exception, all results taken so far are recorded: their queries are paid for.
    """

    def __init__(self, job: FolderJob, records: ImageRecords, passed: Callable[[int], None]) -> None:
        """passed: is told the number of each file that is done."""
        self.failed = 0
        """Images that the classifier failed at."""
        self.stopped: str | None = None
        """Why the job must stop, if it must."""
        self._unwritten = 0
        self._job, self._records, self._passed = job, records, passed
        # Of its own: in a shard, it would take the other one back from the images that are read ahead.
        self._reader = job.images.reader()
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads)
        self._pending: deque[tuple[JobFile, Future[_Saved]]] = deque()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._record(leave=0)
        finally:
            self._pool.shutdown()
            self._reader.close()

    def take(self, result: StreamResult) -> None:
        """Write and record a result, or record its error."""
        file = result.id
        assert isinstance(file, JobFile)
        if result.result is None:
            self._record(leave=0)
            assert result.error is not None
            self._add(file, _Saved(record=failure(self._job, file.image.name, result.error)))
            self.failed += 1
        elif self._threads == 1 or result.result.images[0, 0].numel() < _PARALLEL_WRITE_PIXELS:
            self._record(leave=0)
            self._add(file, _save(self._job, self._reader, file, result.result, result.seconds))
        else:
            saving = self._pool.submit(_save, self._job, self._reader, file, result.result, result.seconds)
            self._pending.append((file, saving))
            self._record(leave=2 * self._threads)

    def _record(self, *, leave: int) -> None:
        """Record written results; wait until at most ``leave`` images are still being written."""
        while self._pending and (len(self._pending) > leave or self._pending[0][1].done()):
            file, saving = self._pending.popleft()
            self._add(file, saving.result())

    def _add(self, file: JobFile, saved: _Saved) -> None:
        self._records.add(saved.record)
        self._passed(file.passed)
        self._unwritten = self._unwritten + 1 if saved.unwritten else 0
        if saved.disk_failed or self._unwritten >= _MAX_UNWRITTEN:
            self.stopped = self.stopped or f"results cannot be written: {saved.record['error']}"


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What became of a result."""

    record: dict[str, Any]
    unwritten: bool = False
    """Its files could not be written."""
    disk_failed: bool = False
    """Nor could those of others."""


def _save(job: FolderJob, reader: ImageReader, file: JobFile, result: Purification, seconds: float) -> _Saved:
    """Write the files of a result and make its record, which is to be written after the files."""
    try:
        saved = save_purification(job.out, file.output, result, bits=file.bits, single_query=job.single_query)
        if job.full_size:
            with reader.open(file.image) as stream:
                whole = job.decode(stream, file.image.name)
            saved |= _save_full_size(job, file.output, whole.pixels, result, file.bits)
    except (InvalidImageError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        paid_for = answer(result, single_query=job.single_query)
        return _Saved(
            record={**failure(job, file.image.name, error), **paid_for},
            unwritten=True,
            disk_failed=isinstance(cause, OSError) and cause.errno in _DISK_ERRORS,
        )
    restorer = getattr(job.restorer_for(result.images[0]), "name", None)
    record = {
        "file": file.image.name,
        "content": file.content,
        **saved,
        **({} if restorer is None else {"restorer": restorer}),
        "notes": [*file.notes, *saved["notes"]],
        "seconds": round(seconds, 6),
        **_identity(job),
        "error": None,
    }
    return _Saved(record=record)


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
