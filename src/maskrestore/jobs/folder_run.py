"""Purify a folder of images: each result is recorded as soon as it is there, and a later run continues."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing

from maskrestore.classifiers import HttpClassifier
from maskrestore.defense.asking import Asking
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ClassifierStoppedError, InvalidImageError, QueryBudgetError
from maskrestore.jobs.answering import answered_again
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords, UnwrittenRecordError
from maskrestore.jobs.job_files import is_done, read_job_file
from maskrestore.jobs.recorder import Recorder
from maskrestore.jobs.saving import add_full_size, failure
from maskrestore.jobs.summary import FolderSummary, summary_of
from maskrestore.runtime.files import write_text_atomically
from maskrestore.types import Progress, StreamItem

__all__ = ["MAX_FAILURES_AT_START", "keep_classes", "purify_folder"]

MAX_FAILURES_AT_START = 32
"""The job stops if the classifier has failed at this many images and has answered about none."""

_PROGRESS_STEP = 1000
"""Files between two updates of the progress, among files that are already done."""


def purify_folder(job: FolderJob, progress: Progress | None = None) -> FolderSummary:
    """Purify all images of ``job.source`` that have no result in ``job.out`` yet, in the order of their names.

    Writes ``images/`` and ``maps/`` with a file for each image, and ``records.jsonl`` with a line for each.
    :func:`maskrestore.jobs.write_folder_report` makes a page of them. Records of earlier runs with these settings get
    the answers of the job's policy for doubt.

    If a file cannot be read, its results cannot be written, or the classifier fails at it, the record says so in
    ``error``, and the next run tries again, after all other images. If the classifier raises RetryLater, a time-out or
    an error of the connection, the run waits and asks again. It ends early when the budget is spent, when the
    classifier fails five times in a row or asks to wait for too long, when it has failed at each of the first 32
    images, when the disk is full, or when the results of five images in a row cannot be written; the images that it has
    begun are still finished if they need no further answer. Memory use does not depend on the number of images.

    Before the first query it is tried whether results can be written. Raises ImageFileError if there is no image at the
    source, ConfigError if results cannot be written or would overwrite the source.
    """
    started = time.perf_counter()
    job.check_out()
    with closing(job.open_records()) as records:
        for record in answered_again(job, records):
            records.amend(record)
        records.compact()  # says what is left out, also if the run is interrupted
        run = _Run(job, records, progress)
        try:
            run.purify()
            summary = run.summary(time.perf_counter() - started)
        finally:
            keep_classes(job)
            run.close()
        if run.cache is not None and not summary.failed and not summary.left:
            run.cache.discard()
        return summary


def keep_classes(job: FolderJob) -> None:
    """Write what the labels mean beside the records, for a model that answers with names of classes."""
    names = getattr(job.classifier, "classes", None)
    if names and not isinstance(job.classifier, HttpClassifier):  # which keeps each new name itself
        text = json.dumps(list(names), ensure_ascii=False, indent=1) + "\n"
        write_text_atomically(job.out / "classes.json", text)


class _Run:
    """One run of a job."""

    def __init__(self, job: FolderJob, records: ImageRecords, progress: Progress | None) -> None:
        self.budget = Budget(job.budget)
        if isinstance(job.classifier, HttpClassifier):
            job.classifier.keep_classes(job.out / "classes.json")
        self.cache = job.open_cache()
        self.stopped: str | None = None
        """Why no further image is begun."""
        self._job, self._records = job, records
        self._reader = job.images.reader()
        self._progress = _FilesPassed(progress, len(records))

    def purify(self) -> None:
        """Purify and record, until the end or until it has to stop."""
        try:
            self._purify_and_record()
            self._records.compact()
        except UnwrittenRecordError as error:
            self.stopped = self.stopped or str(error)

    def _purify_and_record(self) -> None:
        asking = Asking(longest_wait=self._job.longest_wait, cache=self.cache, told=self._progress.note)
        items, classifier = self._items(), self._job.classifier
        results = self._job.defense.purify_stream(items, classifier, budget=self.budget, asking=asking)
        with Recorder(self._job, self._records, self._progress) as recorder:
            for result in results:
                if isinstance(result.error, QueryBudgetError | ClassifierStoppedError):
                    self.stopped = self.stopped or str(result.error)
                    continue
                recorder.take(result)
                if recorder.stopped is not None:
                    self.stopped = recorder.stopped
                    return
                if recorder.failed >= MAX_FAILURES_AT_START and not self._records.purified:
                    self.stopped = f"the classifier failed at all of the first {recorder.failed} images"
                    return
        if self.stopped is None:
            self._progress(len(self._records))

    def summary(self, seconds: float) -> FolderSummary:
        """What this run did, and how many images have a result now."""
        return summary_of(
            self._job,
            self._records,
            queries=self.budget.spent,
            known_answers=0 if self.cache is None else self.cache.found,
            kept_answers=0 if self.cache is None else len(self.cache),
            seconds=seconds,
            stopped=self.stopped,
        )

    def close(self) -> None:
        """Close the source and the cache."""
        self._reader.close()
        if self.cache is not None:
            self.cache.close()

    def _items(self) -> Iterator[StreamItem]:
        """Read images that are not done, each when it is needed; record those that cannot be read."""
        for passed, (name, output, record) in enumerate(self._records.images_failed_last(), start=1):
            if self.stopped is not None:
                return
            try:
                image = self._records.found(name)
                done = is_done(self._job, self._reader, image, record)
                item = None if done else read_job_file(self._job, self._reader, image, output, passed)
                if done and self._job.full_size:
                    add_full_size(self._job, self._records, self._reader, output, record)
            except (InvalidImageError, OSError) as error:
                self._records.add(failure(self._job, name, error))
            else:
                if item is not None:
                    yield item
                elif passed % _PROGRESS_STEP == 0:
                    self._progress(passed)


class _FilesPassed:
    """Reports progress as a number of files. It never decreases, although files are read ahead of their results."""

    def __init__(self, update: Progress | None, total: int) -> None:
        self._update, self._total, self._passed, self._note = update, total, 0, ""

    def __call__(self, passed: int) -> None:
        if passed > self._passed:
            self._passed = passed
            self.note(self._note)

    def note(self, note: str) -> None:
        """Show a note beside the number: it says what goes on while no file is finished."""
        self._note = note
        if self._update is not None:
            self._update(self._passed, self._total, note)
