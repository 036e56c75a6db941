"""What a run of a job did, counted from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrestore.imaging.walking import UNREADABLE
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import purified_label

__all__ = ["FolderSummary", "summary_of"]

_MAX_REPORTED_FAILURES = 20
"""Failures that a summary quotes; the records hold all of them."""

_NAMES_OF_A_REASON = 3
"""Names that a summary quotes for each reason to leave something out; the records hold all of them."""


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """What a run of a job did, and how many images have a result now."""

    purified: int
    """Images with a result of these settings, from this run or an earlier one."""
    reused: int
    """Those of them from an earlier run."""
    changed: int | None
    """Those of them whose label changed when they were purified, whatever was answered; ``None`` for settings with a
    single query, which do not ask for the label of the original image."""
    doubtful: int
    """Those of them whose answer is in doubt."""
    abstained: int
    """Those of them that are not answered."""
    answered_again: int
    """Images with a record of an earlier run that the job's policy for doubt answers, or doubts, in another way."""
    without_suspicion: int
    """Those of them that are never in doubt: results of earlier versions, or of a defense that does not estimate it."""
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


def summary_of(
    job: FolderJob,
    records: ImageRecords,
    *,
    queries: int,
    seconds: float,
    stopped: str | None,
    known_answers: int = 0,
    kept_answers: int = 0,
) -> FolderSummary:
    """What a run did, and how many images have a result now. The arguments are fields of the summary."""
    left_out = records.left_out()
    return FolderSummary(
        **_counts(job, records),
        queries=queries,
        known_answers=known_answers,
        kept_answers=kept_answers,
        seconds=seconds,
        stopped=stopped,
        left_out=left_out,
        names_left_out={reason: tuple(records.names_left_out(reason, _NAMES_OF_A_REASON)) for reason in left_out},
    )


def _counts(job: FolderJob, records: ImageRecords) -> dict[str, Any]:
    """The fields of a summary that are counted from records."""
    purified = changed = failed = other = 0
    doubtful = abstained = without = 0
    failures: list[tuple[str, str]] = []
    notes: Counter[str] = Counter()
    highest = -1
    for record in records.records():
        if record.get("config_digest") != job.config_digest:
            other += 1
        elif record["error"] is None:
            purified += 1
            label = purified_label(record)
            changed += label != record["original_label"]
            doubtful += record.get("doubtful", False)
            abstained += record["label"] is None
            without += record.get("suspicion") is None
            notes.update(record.get("notes", ()))
            highest = max(highest, label, -1 if record["original_label"] is None else record["original_label"])
        else:
            failed += 1
            if failed <= _MAX_REPORTED_FAILURES:
                failures.append((record["file"], record["error"]))
    return {
        "purified": purified,
        "reused": purified - records.purified,
        "changed": None if job.single_query else changed,
        "doubtful": doubtful,
        "abstained": abstained,
        "answered_again": records.amended,
        "without_suspicion": without,
        "failed": failed,
        "failures": tuple(failures),
        "other_settings": other,
        "left": len(records) - purified - failed,
        "notes": notes,
        "highest_label": highest if highest >= 0 else None,
    }
