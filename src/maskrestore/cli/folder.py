"""Purify a folder of images: a record for each as it is finished; broken files do not stop the rest."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.cli.terminal import Update
from maskrestore.errors import (
    InvalidImageError,
    PurificationInterruptedError,
    QueryBudgetError,
)
from maskrestore.evaluation.records import write_text_atomically
from maskrestore.imaging.codec import find_images, read_image, write_png
from maskrestore.types import Classifier, Defense, Purification

__all__ = ["MAP_FIELDS", "FolderJob", "ImageLog", "Summary", "purify_folder"]

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
"""Images are worked on together up to about this many pixels: the method holds dozens of copies of each."""


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """What to purify, with what, and where to put it."""

    source: Path
    """An image or a folder of images."""
    out: Path
    defense: Defense
    classifier: Classifier
    config_digest: str
    """Stands for all settings: an image that was recorded with it is not done again."""
    key_fingerprint: str
    batch: int = 32
    """Images worked on at a time, and lost at most by an interruption; fewer where they are large."""
    keep_grey: bool = False
    """Read grey images with one channel instead of three."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a job ended."""

    records: list[dict[str, Any]]
    """The record of every image of the source that has one, in order."""
    skipped: int
    """Images that an earlier run had finished."""
    seconds: float
    stopped: str | None
    """Why the job ended before its last image, if it did."""


class ImageLog:
    """``records.jsonl``: lines are appended as images are finished; the last line of a file counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, dict[str, Any]] = {}
        self.added = 0
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self._records[record["file"]] = record
            except (ValueError, KeyError, TypeError):
                continue  # cut short by an interruption: the image is done again
        if text and not text.endswith("\n"):
            self.compact()

    def get(self, file: str) -> dict[str, Any]:
        """The last record of ``file``, or an empty one."""
        return self._records.get(file, {})

    def add(self, record: dict[str, Any]) -> None:
        """Append a record and hand it to the operating system."""
        self._records[record["file"]] = record
        self.added += 1
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def compact(self) -> None:
        """Rewrite the file with one line per image, sorted by name."""
        lines = [json.dumps(self._records[name]) + "\n" for name in sorted(self._records)]
        write_text_atomically(self._path, "".join(lines))


def purify_folder(job: FolderJob, update: Update) -> Summary:
    """Purify all images of ``job.source`` that ``job.out`` does not hold yet.

    A file that cannot be read, and images at which the classifier raises, get a record with ``error``; they
    are tried again by the next run. Only an exhausted query budget ends the job early. Raises
    ImageFileError when there is no image at the source.
    """
    files = _source_files(job)
    outputs = _output_names(job, files)
    log = ImageLog(job.out / "records.jsonl")
    todo = [file for file in files if not _is_done(job, log.get(_name(job, file)), file)]
    skipped, started, stopped = len(files) - len(todo), time.perf_counter(), None
    update(skipped, len(files))
    for batch in _batches(job, todo, log):
        try:
            _purify_batch(job, batch, outputs, log)
        except QueryBudgetError as error:
            stopped = str(error)
            break
        update(skipped + log.added, len(files))
    log.compact()
    records = [record for file in files if (record := log.get(_name(job, file)))]
    return Summary(records=records, skipped=skipped, seconds=time.perf_counter() - started, stopped=stopped)


def _source_files(job: FolderJob) -> list[Path]:
    # Results may lie inside the source; they are not purified again.
    inside = job.out.resolve()
    return [file for file in find_images(job.source) if inside not in file.resolve().parents]


def _name(job: FolderJob, file: Path) -> str:
    """The name of a file in records: relative to the source, with forward slashes."""
    return file.name if file == job.source else file.relative_to(job.source).as_posix()


def _output_names(job: FolderJob, files: Sequence[Path]) -> dict[Path, str]:
    """``sub/a.jpg`` -> ``sub/a``, or ``sub/a.jpg`` itself where another file has the same stem."""
    stems: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        stems[Path(_name(job, file)).with_suffix("").as_posix().lower()].append(file)
    return {
        file: _name(job, file) if len(group) > 1 else Path(_name(job, file)).with_suffix("").as_posix()
        for group in stems.values()
        for file in group
    }


def _is_done(job: FolderJob, record: dict[str, Any], file: Path) -> bool:
    if record.get("error") is not None or record.get("config_digest") != job.config_digest:
        return False
    written = [job.out / record[entry] for entry in ("output", "maps") if record.get(entry)]
    return all(path.exists() for path in written) and record.get("content") == _content(file)


def _content(file: Path) -> str | None:
    """Digest of the bytes of a file, to notice that it has changed."""
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None


def _batches(job: FolderJob, files: Iterable[Path], log: ImageLog) -> Iterator[list[tuple[Path, Tensor]]]:
    """Read images, a bounded number of them and of their pixels at a time; record those that cannot be read."""
    batch: list[tuple[Path, Tensor]] = []
    pixels = 0
    for file in files:
        try:
            image = read_image(file, keep_grey=job.keep_grey)
        except (InvalidImageError, OSError) as error:
            log.add(_failure(job, file, error))
            continue
        batch.append((file, image))
        pixels += image[0].numel()
        if len(batch) >= job.batch or pixels >= _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _purify_batch(
    job: FolderJob, batch: Iterable[tuple[Path, Tensor]], outputs: dict[Path, str], log: ImageLog
) -> None:
    by_size: dict[torch.Size, list[tuple[Path, Tensor]]] = defaultdict(list)
    for file, image in batch:
        by_size[image.shape].append((file, image))
    for group in by_size.values():
        paths, images = zip(*group, strict=True)
        started = time.perf_counter()
        result, failure = _attempt(job, torch.stack(images))
        finished = 0 if result is None else len(result.labels)
        seconds = (time.perf_counter() - started) / max(1, finished)
        for row, file in enumerate(paths[:finished]):
            assert result is not None
            log.add(_save(job, file, outputs[file], result, row) | {"seconds": round(seconds, 6)})
        if failure is not None:
            if isinstance(failure.__cause__, QueryBudgetError):
                raise failure.__cause__
            for file in paths[finished:]:
                log.add(_failure(job, file, failure))


def _attempt(job: FolderJob, images: Tensor) -> tuple[Purification | None, PurificationInterruptedError | None]:
    """The results of the images that could be purified, and what went wrong after them."""
    try:
        return job.defense.purify(images, job.classifier), None
    except PurificationInterruptedError as error:
        return error.partial, error


def _save(job: FolderJob, file: Path, output: str, result: Purification, row: int) -> dict[str, Any]:
    """Write the purified image and its maps; returns the record, which is written after them."""
    image, maps = Path("images", output + ".png"), Path("maps", output + ".npz")
    for path in (image, maps):
        (job.out / path).parent.mkdir(parents=True, exist_ok=True)
    write_png(job.out / image, result.images[row])
    tensors = {name: value[row].numpy() for name in MAP_FIELDS if (value := getattr(result, name)) is not None}
    np.savez_compressed(job.out / maps, **tensors)
    hidden = result.hidden
    return {
        "file": _name(job, file),
        "content": _content(file),
        "output": image.as_posix(),
        "maps": maps.as_posix(),
        "original_label": int(result.original_labels[row]),
        "label": int(result.labels[row]),
        "queries": int(result.queries[row]),
        "restored": None if hidden is None else round(float(hidden[row].float().mean()), 6),
        **_identity(job),
        "error": None,
    }


def _failure(job: FolderJob, file: Path, error: Exception) -> dict[str, Any]:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {"file": _name(job, file), **_identity(job), "error": message}


def _identity(job: FolderJob) -> dict[str, str]:
    return {"key_fingerprint": job.key_fingerprint, "config_digest": job.config_digest}
