"""A worker of a job: an actor with the networks in it, which purifies one part after the other."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskrestore.classifiers import HttpClassifier
from maskrestore.defense.asking import Asking
from maskrestore.distributed.ledger import ClusterBudget
from maskrestore.distributed.parts import Outcome, Part, PartLog
from maskrestore.distributed.shards import Shards
from maskrestore.distributed.storage import Storage
from maskrestore.errors import (
    ClassifierStoppedError,
    ConfigError,
    InvalidImageError,
    MaskRestoreError,
    QueryBudgetError,
)
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.job_files import JobFile, is_done, read_job_file
from maskrestore.jobs.saving import failure, save_result
from maskrestore.jobs.sources import ImageReader
from maskrestore.types import StreamItem

__all__ = ["Orders", "Worker"]

_MAX_DEATHS = 3
"""Workers that may die at a part before its images count as failed."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What every worker is told."""

    make_job: Callable[[], FolderJob]
    """Makes the job, with its networks, in the worker."""
    storage: Storage
    """For the records of parts, and for shards."""
    shards: bool
    """Write results into shards, not as files of the job."""
    config_digest: str
    """Of the job: a machine whose results would be others must not work on it."""
    folder: str
    """The working directory that relative paths belong to."""
    environment: Mapping[str, str]
    """Variables that the job reads, such as those that headers name."""
    threads: int
    workers: int
    """Of the whole job; they share the requests at a time that an address gets."""


class Worker:
    """Purifies parts. One that cannot work says so in each outcome, and the job ends."""

    def __init__(self, orders: Orders, ledger: Any) -> None:
        self._orders, self._ledger = orders, ledger
        self._name = uuid.uuid4().hex
        self._log, self._shards = PartLog(orders.storage), Shards(orders.storage)
        self._unfit: str | None = None
        try:
            self._job = self._made()
            self._budget = ClusterBudget(ledger, self._job.budget)
            self._reader = self._job.images.reader()
        except (MaskRestoreError, OSError) as error:
            self._unfit = f"a worker cannot begin: {error}"

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """The part of a row -> its outcome."""
        return self._outcome(Part.from_row(row)).to_row()

    def _made(self) -> FolderJob:
        orders = self._orders
        os.environ.update(orders.environment)
        if not Path(orders.folder).is_dir():
            raise ConfigError(f"there is no folder {orders.folder} on this machine; all machines must share it")
        os.chdir(orders.folder)
        torch.set_num_threads(orders.threads)
        job = orders.make_job()
        if job.config_digest != orders.config_digest:
            raise ConfigError(
                "results of this machine would differ from those of the machine that runs the job, because of another "
                "number format, other weights or another model; give --precision, and the same files everywhere"
            )
        if isinstance(job.classifier, HttpClassifier):
            self._share(job.classifier, job)
        return job

    def _share(self, classifier: HttpClassifier, job: FolderJob) -> None:
        classifier.concurrency = max(1, classifier.concurrency // self._orders.workers)
        if self._orders.storage.remote:
            classifier.fix_classes()
        else:
            classifier.keep_classes(job.out / "classes.json", shared=True)

    def _outcome(self, part: Part) -> Outcome:
        import ray  # noqa: PLC0415 - an extra

        told: dict[str, Any] = {"id": part.id, "images": len(part.images), "worker": self._name}
        attempt, ended = ray.get(self._ledger.begin.remote(part.id))
        # Perhaps a worker finished it and died before it could say so.
        finished = self._log.read(part.id) if attempt > 1 else None
        if finished is not None:
            return Outcome(**told, records=finished)
        if ended is not None or self._unfit is not None:
            return Outcome(**told, passed_over=True, stopped=self._unfit)
        try:
            records, stopped = self._finished(part, attempt)
        except OSError as error:
            return Outcome(**told, stopped=f"results cannot be written: {error}")
        return Outcome(**told, records=records, stopped=stopped)

    def _finished(self, part: Part, attempt: int) -> tuple[list[dict[str, Any]], str | None]:
        """Purify a part and keep its records. Raises OSError."""
        if attempt > _MAX_DEATHS:
            error = RuntimeError(f"{attempt - 1} workers died at the part that this image belongs to")
            records, stopped = [failure(self._job, image.name, error) for image in part.images], None
        elif not self._orders.shards:
            records, stopped = self._purify(part, self._job)
        else:
            with tempfile.TemporaryDirectory(prefix="maskrestore-") as folder:
                records, stopped = self._purify(part, dataclasses.replace(self._job, out=Path(folder)))
                records = self._shards.write(part.id, Path(folder), records)
        self._log.write(part.id, records)
        return records, stopped

    def _purify(self, part: Part, job: FolderJob) -> tuple[list[dict[str, Any]], str | None]:
        records: list[dict[str, Any]] = []
        stopped: str | None = None
        asking = Asking(longest_wait=job.longest_wait)
        items = _items(part, job, self._reader, records)
        try:
            for result in job.defense.purify_stream(items, job.classifier, budget=self._budget, asking=asking):
                assert isinstance(result.id, JobFile)
                if isinstance(result.error, QueryBudgetError | ClassifierStoppedError):
                    stopped = stopped or str(result.error)
                elif result.result is None:
                    assert result.error is not None
                    records.append(failure(job, result.id.image.name, result.error))
                else:
                    saved = save_result(job, self._reader, result.id, result.result, result.seconds)
                    records.append(saved.record)
                    if saved.disk_failed:
                        return records, f"results cannot be written: {saved.record['error']}"
        finally:
            self._budget.settle()
        return records, stopped


def _items(part: Part, job: FolderJob, reader: ImageReader, records: list[dict[str, Any]]) -> Iterator[StreamItem]:
    """Read the images that are not done; the records of those that cannot be read are appended."""
    for image in part.images:
        try:
            done = is_done(job, reader, image.found, image.known)
            item = None if done else read_job_file(job, reader, image.found, image.output)
        except (InvalidImageError, OSError) as error:
            records.append(failure(job, image.name, error))
        else:
            if item is not None:
                yield item
