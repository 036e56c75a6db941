"""Purify a folder of images: a record for each as it is finished; broken files do not stop the rest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers import CountingClassifier
from maskrestore.errors import (
    ConfigError,
    InvalidImageError,
    PurificationInterruptedError,
    QueryBudgetError,
)
from maskrestore.imaging.codec import read_image, walk_images, write_png
from maskrestore.jobs.image_log import ImageLog
from maskrestore.runtime.digests import digest_of_file
from maskrestore.types import Defense, Progress, Purification

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

_BATCH_PIXELS = 2**20
"""Images are read together up to about this many pixels, or what the defense works on at a time where that is more."""

_WORTH_A_THREAD = 2**14
"""Pixels of an image from which results are written side by side: for small ones, threads cost more than they bring."""

_HOPELESS = 32
"""A classifier that fails at so many images before it has answered about any is not asked about the others."""

_STEP = 1000
"""Files between two steps of the progress bar, where nearly all are done already."""


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """What to purify, with what, and where to put it."""

    source: Path
    """An image or a folder of images."""
    out: Path
    defense: Defense
    classifier: CountingClassifier
    max_queries: int
    """What an image may cost, at most: with a budget, no image is begun that it might not suffice for."""
    config_digest: str
    """Stands for all settings: an image that was recorded with it is not done again."""
    key_fingerprint: str
    batch: int = 64
    """Images worked on at a time, and lost at most by an interruption; fewer where they are large."""
    pixels: int = 0
    """Pixels of images that the defense works on at a time: at least as many are read together."""
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
    stopped: str | None
    """Why the job ended before its last image, if it did."""
    skipped: tuple[str, ...]
    """What is said of folders that could not be read."""


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """An image that is to be purified."""

    name: str
    output: str
    content: str
    """Digest of the bytes of the file, to notice that it has changed."""
    pixels: Tensor


def purify_folder(job: FolderJob, update: Progress) -> Summary:
    """Purify all images of ``job.source`` that ``job.out`` does not hold yet, in order of their names.

    A file that cannot be read, and an image at which the classifier raises, get a record with ``error``; they
    are tried again by the next run. Only an exhausted query budget ends the job early, and a classifier that fails at
    all of the first 32 images. Memory does not grow with the number of images. Raises ImageFileError when there is no
    image at the source, ConfigError when results would be written over the source.
    """
    source, out = job.source.resolve(), job.out.resolve()
    if source == out or out / "images" in (source, *source.parents):
        raise ConfigError(f"results would be written over the images in {job.source}; choose another folder than {out}")
    skipped: list[str] = []
    files = walk_images(job.source, leave_out=out, skipped=skipped.append)
    log = ImageLog(job.out / "records.jsonl", map(job.name, files))
    started, stopped, failed, total = time.perf_counter(), None, 0, len(log)
    for passed, batch in _batches(job, log):
        try:
            failed += _purify_batch(job, batch, log)
        except QueryBudgetError as error:
            stopped = str(error)
            break
        update(passed, total)
        if failed >= _HOPELESS and not log.purified:
            stopped = f"the classifier failed at all of the first {failed} images"
            break
    log.compact()
    return Summary(log=log, seconds=time.perf_counter() - started, stopped=stopped, skipped=tuple(skipped))


def _batches(job: FolderJob, log: ImageLog) -> Iterator[tuple[int, list[_Loaded]]]:
    """Read images, a bounded number of them and of their pixels at a time; record those that cannot be read.

    Each batch comes with the number of files passed so far, done ones included. It may be empty.
    """
    batch: list[_Loaded] = []
    pixels, total = 0, len(log)
    for passed, (name, output, record) in enumerate(log.images(), start=1):
        try:
            if not _is_done(job, record, job.file(name)):
                batch.append(image := _load(job, name, output))
                pixels += image.pixels[0].numel()
        except (InvalidImageError, OSError) as error:
            log.add(_failure(job, name, error))
        full = len(batch) >= job.batch or pixels >= max(job.pixels, _BATCH_PIXELS)
        if full or passed % _STEP == 0 or passed == total:
            yield passed, batch
            batch, pixels = [], 0


def _load(job: FolderJob, name: str, output: str) -> _Loaded:
    file = job.file(name)
    pixels = read_image(file, keep_grey=job.keep_grey)  # first: it refuses what is huge or no file
    return _Loaded(name=name, output=output, content=digest_of_file(file), pixels=pixels)


def _is_done(job: FolderJob, record: dict[str, Any], file: Path) -> bool:
    if job.again or record.get("error") is not None or record.get("config_digest") != job.config_digest:
        return False
    written = [job.out / record[entry] for entry in ("output", "maps") if record.get(entry)]
    return all(path.exists() for path in written) and record.get("content") == digest_of_file(file)


def _purify_batch(job: FolderJob, batch: Sequence[_Loaded], log: ImageLog) -> int:
    """Returns at how many images the classifier failed."""
    failed = 0
    by_size: dict[torch.Size, list[_Loaded]] = defaultdict(list)
    for image in batch:
        by_size[image.pixels.shape].append(image)
    for group in by_size.values():
        begun = 0
        while begun < len(group):
            count = _affordable(job, len(group) - begun)
            failed += _purify_group(job, group[begun : begun + count], log)
            begun += count
    return failed


def _affordable(job: FolderJob, count: int) -> int:
    """How many of so many images the budget suffices for in any case. Raises QueryBudgetError below one."""
    remaining = job.classifier.remaining
    if remaining is None:
        return count
    if remaining < job.max_queries:
        raise QueryBudgetError(
            f"{remaining} queries are left of the budget of {job.classifier.budget}, and an image may take "
            f"{job.max_queries}"
        )
    return min(count, remaining // job.max_queries)


def _purify_group(job: FolderJob, group: Sequence[_Loaded], log: ImageLog) -> int:
    """Returns at how many images the classifier failed."""
    started = time.perf_counter()
    result, failure = _attempt(job, torch.stack([image.pixels for image in group]))
    finished = 0 if result is None else len(result.labels)
    seconds = (time.perf_counter() - started) / max(1, finished)
    if result is not None:
        for record in _saved(job, group[:finished], result):
            log.add(record | {"seconds": round(seconds, 6)})
    if failure is None:
        return 0
    cause = failure.__cause__
    if isinstance(cause, QueryBudgetError):
        raise cause
    if len(group) == 1:
        log.add(_failure(job, group[0].name, cause if isinstance(cause, Exception) else failure))
        return 1
    failed = 0
    for image in group[finished:]:  # one of them made the classifier raise: the others are not to suffer for it
        _affordable(job, 1)
        failed += _purify_group(job, [image], log)
    return failed


def _attempt(job: FolderJob, images: Tensor) -> tuple[Purification | None, PurificationInterruptedError | None]:
    """The results of the images that could be purified, and what went wrong after them."""
    try:
        return job.defense.purify(images, job.classifier), None
    except PurificationInterruptedError as error:
        return error.partial, error


def _saved(job: FolderJob, group: Sequence[_Loaded], result: Purification) -> Iterator[dict[str, Any]]:
    """Write the results of a group; the record of each comes as soon as it and those before it are written."""
    save = partial(_save, job, group, result)
    threads = torch.get_num_threads() if group[0].pixels[0].numel() >= _WORTH_A_THREAD else 1
    if threads == 1:
        yield from map(save, range(len(group)))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(save, range(len(group)))


def _save(job: FolderJob, group: Sequence[_Loaded], result: Purification, row: int) -> dict[str, Any]:
    """Write a purified image and its maps; returns the record, which is written after them."""
    original = group[row]
    image, maps = Path("images", original.output + ".png"), Path("maps", original.output + ".npz")
    for path in (image, maps):
        (job.out / path).parent.mkdir(parents=True, exist_ok=True)
    write_png(job.out / image, result.images[row])
    tensors = {name: value[row].numpy() for name in MAP_FIELDS if (value := getattr(result, name)) is not None}
    np.savez_compressed(job.out / maps, **tensors)
    hidden = result.hidden
    return {
        "file": original.name,
        "content": original.content,
        "output": image.as_posix(),
        "maps": maps.as_posix(),
        "original_label": int(result.original_labels[row]),
        "label": int(result.labels[row]),
        "queries": int(result.queries[row]),
        "restored": None if hidden is None else round(float(hidden[row].float().mean()), 6),
        **_identity(job),
        "error": None,
    }


def _failure(job: FolderJob, name: str, error: Exception) -> dict[str, Any]:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"file": name, **_identity(job), "error": message}


def _identity(job: FolderJob) -> dict[str, str]:
    return {"key_fingerprint": job.key_fingerprint, "config_digest": job.config_digest}
