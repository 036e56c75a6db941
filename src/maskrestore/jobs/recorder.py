"""Record results in order, each after its files are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.job_files import JobFile
from maskrestore.jobs.saving import Saved, failure, save_result
from maskrestore.types import StreamResult

__all__ = ["Recorder"]

_PARALLEL_WRITE_PIXELS = 2**14
"""Images with this many pixels or more are written by several threads. For smaller ones, threads cost more time than
they save."""

_MAX_UNWRITTEN = 5
"""The job stops if the results of so many images in a row cannot be written."""


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
        self._pending: deque[tuple[JobFile, Future[Saved]]] = deque()

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
            self._add(file, Saved(record=failure(self._job, file.image.name, result.error)))
            self.failed += 1
        elif self._threads == 1 or result.result.images[0, 0].numel() < _PARALLEL_WRITE_PIXELS:
            self._record(leave=0)
            self._add(file, save_result(self._job, self._reader, file, result.result, result.seconds))
        else:
            saving = self._pool.submit(save_result, self._job, self._reader, file, result.result, result.seconds)
            self._pending.append((file, saving))
            self._record(leave=2 * self._threads)

    def _record(self, *, leave: int) -> None:
        """Record written results; wait until at most ``leave`` images are still being written."""
        while self._pending and (len(self._pending) > leave or self._pending[0][1].done()):
            file, saving = self._pending.popleft()
            self._add(file, saving.result())

    def _add(self, file: JobFile, saved: Saved) -> None:
        self._records.add(saved.record)
        self._passed(file.passed)
        self._unwritten = self._unwritten + 1 if saved.unwritten else 0
        if saved.disk_failed or self._unwritten >= _MAX_UNWRITTEN:
            self.stopped = self.stopped or f"results cannot be written: {saved.record['error']}"
