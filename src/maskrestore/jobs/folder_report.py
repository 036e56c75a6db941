"""Write the HTML report of a folder job from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskrestore.defense.doubt import ABSTAINED
from maskrestore.errors import InvalidImageError
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import load_purification, purified_label
from maskrestore.jobs.sources import Found, ImageReader
from maskrestore.reporting import Evidence, ReportEntry, ReportSummary, entries_from, write_report
from maskrestore.runtime.settings import flat
from maskrestore.runtime.words import counted
from maskrestore.types import Purification

__all__ = ["write_folder_report"]

_NAMES_OF_A_REASON = 5
"""Names that the report quotes for each reason to leave something out; the records hold all of them."""

_DESCRIPTION = (
    "maskrestore looked for suspicious spots in each image, restored them, and asked the classifier again. A changed "
    "label means that the original label depended on what was removed. That may have been a trigger, or a part of the "
    "image that matters and was restored badly: compare the pictures."
)
_SINGLE_QUERY = (
    "maskrestore looked for suspicious spots in each image, restored them, and asked the classifier about the restored "
    "image only. The labels of the original images are not known."
)


def write_folder_report(
    job: FolderJob,
    *,
    settings: Mapping[str, object] | None = None,
    class_names: Sequence[str] | None = None,
    max_detailed: int = 30,
    load: Callable[[dict[str, Any]], Purification] | None = None,
) -> Path:
    """Write ``report.html`` into ``job.out`` and return its path.

    It shows the results of the settings of ``job``, from all runs. Nothing is computed and the classifier is not asked.

    settings: shown before those of the defense, for example ``{"restorer": "mae-tiny-32"}``. class_names: names of the
    labels, where known. max_detailed: images that are shown with pictures. load: reads the result of a record, if it is
    not in ``job.out``; raises InvalidImageError or OSError if it cannot.

    Raises ImageFileError if there is no image at the source, ConfigError if ``max_detailed`` is negative.
    """
    config = job.defense.config
    summary = ReportSummary(
        title=f"Purified images of {job.images.title}",
        description=_SINGLE_QUERY if job.single_query else _DESCRIPTION,
        settings={
            "classifier": job.classifier_id,
            **(settings or {}),
            "max_queries": config.max_queries,
            "on_doubt": job.on_doubt,
            "doubt_limit": job.doubt_limit,
            **flat(config.to_dict()),
        },
        key_fingerprint=job.key_fingerprint,
    )
    with closing(job.open_records()) as records, job.images.reader() as reader:
        shown = {**summary.settings, **_restorers(job, records)}
        left_out = {
            reason: (count, records.names_left_out(reason, _NAMES_OF_A_REASON))
            for reason, count in records.left_out().items()
        }
        return write_report(
            job.out,
            (_entry(record) for record in records.records(job.config_digest) if not record["error"]),
            replace(summary, settings=shown, left_out=left_out),
            class_names=class_names,
            errors=((one["file"], one["error"]) for one in records.records(job.config_digest) if one["error"]),
            max_detailed=max_detailed,
            evidence_of=lambda name: _evidence(job, reader, records.found(name), records.record(name), load),
        )


def _restorers(job: FolderJob, records: ImageRecords) -> dict[str, str]:
    """How many images each restorer restored, where the records say it."""
    counts = Counter(record.get("restorer") for record in records.records(job.config_digest) if not record["error"])
    words = [f"{name}: {counted(count, 'image')}" for name, count in sorted(counts.items()) if name is not None]
    return {"restored by": ", ".join(words)} if words else {}


def _entry(record: Mapping[str, Any]) -> ReportEntry:
    label, answer = purified_label(record), record["label"]
    return ReportEntry(
        name=record["file"],
        original_label=record["original_label"],
        label=label,
        answer=None if answer == label else ABSTAINED if answer is None else answer,
        suspicion=record.get("suspicion"),
        doubtful=record.get("doubtful", False),
        queries=record["queries"],
        restored=record["restored"],
        note="; ".join(record.get("notes", ())),
    )


def _evidence(
    job: FolderJob,
    reader: ImageReader,
    image: Found,
    record: dict[str, Any],
    load: Callable[[dict[str, Any]], Purification] | None,
) -> Evidence | None:
    """The pictures and maps of an image, ``None`` if its file or its results are gone."""
    try:
        with reader.open(image) as stream:
            original = job.shown(job.decode(stream, image.name).pixels)
        purification = load(record) if load else load_purification(job.out, record, keep_grey=job.keep_grey)
    except (InvalidImageError, OSError):
        return None
    return entries_from(original[None], purification, names=[image.name])[0].evidence
