"""Purify a folder of images: a record for each as it is finished; broken files do not stop the rest."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ConfigError, InvalidImageError, QueryBudgetError
from maskrestore.imaging.codec import read_image, walk_images, write_png
from maskrestore.jobs.image_log import ImageLog
from maskrestore.runtime.digests import digest_of_file
from maskrestore.types import Classifier, Progress, Purification, StreamItem, StreamResult

__all__ = ["MAP_FIELDS", "FolderJob", "Summary", "purify_folder"]

MAP_FIELDS = (
    "hidden",
    "scores",
    "image_scores",
    "label_scores",
    "initial_image_scores",
    "initial_label_scores",
)
"""Fields of a Purification that are kept beside the purified image, for the report."""

_WORTH_A_THREAD = 2**14
"""Pixels of an image from which results are written in parallel: for small images, threads cost more than they gain."""

_HOPELESS = 32
"""If the classifier fails at so many images before it has answered about any, the job stops."""

_STEP = 1000
"""Files between two updates of the progress, where nearly all are done already."""


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """What to purify, with what, and where to put it."""

    source: Path
    """An image or a folder of images."""
    out: Path
    defense: BDMAE
    classifier: Classifier
    config_digest: str
    """Stands for all settings: an image that was recorded with it is not done again."""
    key_fingerprint: str
    budget: int | None = None
    """Queries that this run may send; an image that they may not suffice for is not begun."""
    keep_grey: bool = False
    """Read grey images with one channel instead of three."""
    again: bool = False
    """Do images again that were recorded with these settings."""

    def name(self, file: Path) -> str:
        """The name of a file in records: relative to the source, with forward slashes."""
        return file.name if file == self.source else file.relative_to(self.source).as_posix()

    def file(self, name: str) -> Path:
        """The file of that name."""
        return self.source if self.source.is_file() else self.source / name


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a job ended."""

    log: ImageLog
    """The images of the source, and the records of those that have one; to be closed."""
    seconds: float
    queries: int
    """Sent by this run."""
    stopped: str | None
    """Why the job ended before its last image, if it did."""
    skipped: tuple[str, ...]
    """Messages about folders that could not be read."""


@dataclass(frozen=True, kw_only=True)
class _File:
    """An image that is to be purified."""

    name: str
    output: str
    content: str
    """Digest of the bytes of the file, to notice that it has changed."""
    passed: int
    """Files up to this one, with those that are done already."""


def purify_folder(job: FolderJob, update: Progress) -> Summary:
    """Purify all images of ``job.source`` that ``job.out`` does not hold yet, in the order of their names.

    A file that cannot be read, and an image that the classifier fails at, get a record with ``error``; the next run
    tries them again. Only an exhausted query budget ends the job early, and a classifier that fails at all of the first
    32 images. Memory does not grow with the number of images. Raises ImageFileError when there is no image at the
    source, ConfigError when results would be written over the source.
    """
    source, out = job.source.resolve(), job.out.resolve()
    if source == out or out / "images" in (source, *source.parents):
        raise ConfigError(f"results would be written over the images in {job.source}; choose another folder than {out}")
    skipped: list[str] = []
    files = walk_images(job.source, leave_out=out, skipped=skipped.append)
    log = ImageLog(job.out / "records.jsonl", map(job.name, files))
    budget, started, stopped = Budget(job.budget), time.perf_counter(), None
    progress = _Rising(update, len(log))
    results = job.defense.purify_stream(_items(job, log, progress), job.classifier, budget=budget)
    with _Recorder(job, log, progress) as recorder:
        for result in results:
            if isinstance(result.error, QueryBudgetError):
                stopped = str(result.error)
                break
            recorder.take(result)
            if recorder.failed >= _HOPELESS and not log.purified:
                stopped = f"the classifier failed at all of the first {recorder.failed} images"
                break
    if stopped is None:
        progress(len(log))
    log.compact()
    seconds = time.perf_counter() - started
    return Summary(log=log, seconds=seconds, queries=budget.spent, stopped=stopped, skipped=tuple(skipped))


class _Rising:
    """Reports how many files have been passed, and never fewer than before: files are read ahead of their results."""

    def __init__(self, update: Progress, total: int) -> None:
        self._update, self._total, self._passed = update, total, 0

    def __call__(self, passed: int) -> None:
        if passed > self._passed:
            self._passed = passed
            self._update(passed, self._total)


def _items(job: FolderJob, log: ImageLog, progress: _Rising) -> Iterator[StreamItem]:
    """Read the images that are not done, as they are needed; record those that cannot be read."""
    for passed, (name, output, record) in enumerate(log.images(), start=1):
        try:
            item = None if _is_done(job, record, job.file(name)) else _read(job, name, output, passed)
        except (InvalidImageError, OSError) as error:
            log.add(_failure(job, name, error))
        else:
            if item is not None:
                yield item
            elif passed % _STEP == 0:
                progress(passed)


def _read(job: FolderJob, name: str, output: str, passed: int) -> StreamItem:
    file = job.file(name)
    pixels = read_image(file, keep_grey=job.keep_grey)  # before the digest: it refuses what is huge or no file
    return StreamItem(id=_File(name=name, output=output, content=digest_of_file(file), passed=passed), image=pixels)


def _is_done(job: FolderJob, record: dict[str, Any], file: Path) -> bool:
    if job.again or record.get("error") is not None or record.get("config_digest") != job.config_digest:
        return False
    written = [job.out / record[entry] for entry in ("output", "maps") if record.get(entry)]
    return all(path.exists() for path in written) and record.get("content") == digest_of_file(file)


class _Recorder:
    """Writes results, large ones in parallel, and records each in order as soon as it is written.

    What has been taken is recorded when the context ends, even by an exception: its queries are paid for.
    """

    def __init__(self, job: FolderJob, log: ImageLog, progress: _Rising) -> None:
        self.failed = 0
        """Images that the classifier failed at."""
        self._job, self._log, self._progress = job, log, progress
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads)
        self._pending: deque[tuple[_File, Future[dict[str, Any]]]] = deque()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._record(leave=0)
        finally:
            self._pool.shutdown()

    def take(self, result: StreamResult) -> None:
        """Write and record a result, or record an error."""
        file = result.id
        assert isinstance(file, _File)
        if result.result is None:
            self._record(leave=0)
            assert result.error is not None
            self._add(file, _failure(self._job, file.name, result.error))
            self.failed += 1
        elif self._threads == 1 or result.result.images[0, 0].numel() < _WORTH_A_THREAD:
            self._record(leave=0)
            self._add(file, _save(self._job, file, result.result, result.seconds))
        else:
            saving = self._pool.submit(_save, self._job, file, result.result, result.seconds)
            self._pending.append((file, saving))
            self._record(leave=2 * self._threads)

    def _record(self, *, leave: int) -> None:
        """Record what has been written, and wait until at most so many images are being written."""
        while self._pending and (len(self._pending) > leave or self._pending[0][1].done()):
            file, saving = self._pending.popleft()
            self._add(file, saving.result())

    def _add(self, file: _File, record: dict[str, Any]) -> None:
        self._log.add(record)
        self._progress(file.passed)


def _save(job: FolderJob, file: _File, result: Purification, seconds: float) -> dict[str, Any]:
    """Write the purified image of a batch of one and its maps; returns the record, which is written after them."""
    image, maps = Path("images", file.output + ".png"), Path("maps", file.output + ".npz")
    for path in (image, maps):
        (job.out / path).parent.mkdir(parents=True, exist_ok=True)
    write_png(job.out / image, result.images[0])
    tensors = {name: value[0].numpy() for name in MAP_FIELDS if (value := getattr(result, name)) is not None}
    np.savez_compressed(job.out / maps, **tensors)
    hidden = result.hidden
    return {
        "file": file.name,
        "content": file.content,
        "output": image.as_posix(),
        "maps": maps.as_posix(),
        "original_label": int(result.original_labels[0]),
        "label": int(result.labels[0]),
        "queries": int(result.queries[0]),
        "restored": None if hidden is None else round(float(hidden[0].float().mean()), 6),
        "seconds": round(seconds, 6),
        **_identity(job),
        "error": None,
    }


def _failure(job: FolderJob, name: str, error: Exception) -> dict[str, Any]:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"file": name, **_identity(job), "error": message}


def _identity(job: FolderJob) -> dict[str, str]:
    return {"key_fingerprint": job.key_fingerprint, "config_digest": job.config_digest}
