"""Purify a folder of images: each result is recorded as soon as it is there, and a later run continues."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from maskrestore.classifiers import HttpClassifier
from maskrestore.defense.asking import Asking
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ClassifierStoppedError, InvalidImageError, QueryBudgetError
from maskrestore.imaging.walking import UNREADABLE
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords, UnwrittenRecordError
from maskrestore.jobs.recorder import JobFile, Recorder, add_full_size, failure
from maskrestore.jobs.result_files import make_result_folders
from maskrestore.jobs.sources import Found, ImageReader
from maskrestore.runtime.digests import digest_of_stream
from maskrestore.runtime.files import write_text_atomically
from maskrestore.types import Progress, StreamItem

__all__ = ["FolderSummary", "purify_folder"]

_MAX_FAILURES_AT_START = 32
"""The job stops if the classifier has failed at this many images and has answered about none."""

_FAR_LARGER = 4
"""How many times as large as the restorer's images an image may be before the record says so."""

_MAX_REPORTED_FAILURES = 20
"""Failures that a summary quotes; the records hold all of them."""

_NAMES_OF_A_REASON = 3
"""Names that a summary quotes for each reason to leave something out; the records hold all of them."""

_PROGRESS_STEP = 1000
"""Files between two updates of the progress, among files that are already done."""


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """What a run of a job did, and how many images have a result now."""

    purified: int
    """Images with a result of these settings, from this run or an earlier one."""
    reused: int
    """Those of them from an earlier run."""
    changed: int | None
    """Those of them whose label changed; ``None`` for settings with a single query, which do not ask for the label of
    the original image."""
    failed: int
    """Images that could not be read or written, or that the classifier failed at."""
    failures: tuple[tuple[str, str], ...]
    """File and error of the first of them."""
    other_settings: int
    """Images that only have a result of other settings."""
    left: int
    """Images that have neither a result of these settings nor an error."""
    queries: int
    """Sent by this run. A query that was sent again, because no answer to it arrived, counts again."""
    known_answers: int
    """Questions that earlier runs had got the answer to, and that were not sent again."""
    kept_answers: int
    """Answers on disk, which the next run does not ask for again."""
    seconds: float
    """Duration of this run."""
    stopped: str | None
    """Why the run ended before its last image, if it did."""
    left_out: Mapping[str, int]
    """How many files and folders of the source were left out, by reason; see
    :func:`~maskrestore.imaging.walking.walk_images`."""
    names_left_out: Mapping[str, tuple[str, ...]]
    """The first names for each reason."""
    highest_label: int | None
    """Of results of these settings; ``None`` if there is none."""
    notes: Mapping[str, int]
    """What people should know of results of these settings, and of how many images."""

    @property
    def complete(self) -> bool:
        """Whether every image has a result, and everything at the source could be looked at."""
        return not self.failed and self.stopped is None and not UNREADABLE & self.left_out.keys()


def purify_folder(job: FolderJob, progress: Progress | None = None) -> FolderSummary:
    """Purify all images of ``job.source`` that have no result in ``job.out`` yet, in the order of their names.

    Writes ``images/`` and ``maps/`` with a file for each image, and ``records.jsonl`` with a line for each.
    :func:`maskrestore.jobs.write_folder_report` makes a page of them.

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
        records.compact()  # says what is left out, also if the run is interrupted
        run = _Run(job, records, progress)
        try:
            run.purify()
            summary = run.summary(time.perf_counter() - started)
        finally:
            _keep_classes(job)
            run.close()
        if run.cache is not None and not summary.failed and not summary.left:
            run.cache.discard()
        return summary


def _keep_classes(job: FolderJob) -> None:
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
                if recorder.failed >= _MAX_FAILURES_AT_START and not self._records.purified:
                    self.stopped = f"the classifier failed at all of the first {recorder.failed} images"
                    return
        if self.stopped is None:
            self._progress(len(self._records))

    def summary(self, seconds: float) -> FolderSummary:
        """What this run did, and how many images have a result now."""
        left_out = self._records.left_out()
        names = {reason: tuple(self._records.names_left_out(reason, _NAMES_OF_A_REASON)) for reason in left_out}
        return FolderSummary(
            **_counts(self._job, self._records),
            queries=self.budget.spent,
            known_answers=0 if self.cache is None else self.cache.found,
            kept_answers=0 if self.cache is None else len(self.cache),
            seconds=seconds,
            stopped=self.stopped,
            left_out=left_out,
            names_left_out=names,
        )

    def close(self) -> None:
        """Close the source and the cache."""
        self._reader.close()
        if self.cache is not None:
            self.cache.close()

    def _items(self) -> Iterator[StreamItem]:
        """Read images that are not done, each when it is needed; record those that cannot be read."""
        for passed, (name, output, record) in enumerate(self._in_order(), start=1):
            if self.stopped is not None:
                return
            try:
                image = self._records.found(name)
                done = _is_done(self._job, self._reader, image, record)
                item = None if done else _read(self._job, self._reader, image, output, passed)
                if done and self._job.full_size:
                    add_full_size(self._job, self._records, self._reader, output, record)
            except (InvalidImageError, OSError) as error:
                self._records.add(failure(self._job, name, error))
            else:
                if item is not None:
                    yield item
                elif passed % _PROGRESS_STEP == 0:
                    self._progress(passed)

    def _in_order(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Names, outputs and records in the order of their names, but those last that failed in an earlier run.

        Else a run that stops after some failures in a row would never get past them.
        """
        failed = []
        for image in self._records.images():
            if image[2].get("error") is not None:
                failed.append(image)
            else:
                yield image
        yield from failed


def _counts(job: FolderJob, records: ImageRecords) -> dict[str, Any]:
    """The fields of a summary that are counted from records."""
    purified = changed = failed = other = 0
    failures: list[tuple[str, str]] = []
    notes: Counter[str] = Counter()
    highest = -1
    for record in records.records():
        if record.get("config_digest") != job.config_digest:
            other += 1
        elif record["error"] is None:
            purified += 1
            changed += record["label"] != record["original_label"]
            notes.update(record.get("notes", ()))
            highest = max(
                highest, record["label"], -1 if record["original_label"] is None else record["original_label"]
            )
        else:
            failed += 1
            if failed <= _MAX_REPORTED_FAILURES:
                failures.append((record["file"], record["error"]))
    return {
        "purified": purified,
        "reused": purified - records.purified,
        "changed": None if job.single_query else changed,
        "failed": failed,
        "failures": tuple(failures),
        "other_settings": other,
        "left": len(records) - purified - failed,
        "notes": notes,
        "highest_label": highest if highest >= 0 else None,
    }


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


def _read(job: FolderJob, reader: ImageReader, image: Found, output: str, passed: int) -> StreamItem:
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


def _is_done(job: FolderJob, reader: ImageReader, image: Found, record: dict[str, Any]) -> bool:
    if job.again or record.get("error") is not None or record.get("config_digest") != job.config_digest:
        return False
    written = [job.out / record[entry] for entry in ("output", "maps") if record.get(entry)]
    if not all(path.exists() for path in written):
        return False
    with reader.open(image) as stream:
        return bool(record.get("content") == digest_of_stream(stream))
