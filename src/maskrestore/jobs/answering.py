"""What the record of an image answers, by the policy for answers in doubt.

It follows from the record alone, so another policy asks nothing and restores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maskrestore.defense.doubt import DoubtPolicy
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import SUSPICION_DIGITS, purified_label

__all__ = ["answered", "answered_again"]


def answered(record: Mapping[str, Any], on_doubt: DoubtPolicy, limit: float) -> dict[str, Any]:
    """The record with what a policy answers, whatever it answered before.

    record: of a result, with ``suspicion``, ``original_label``, and ``label``, that of the purified image, or
    ``purified_label``. limit: an answer is in doubt above it. ``label`` becomes the answer, ``None`` for none.
    """
    purified, original, suspicion = purified_label(record), record["original_label"], record["suspicion"]
    kept = original in (None, purified)  # a single query does not tell the original label
    # Of the rounded suspicion, so that anyone can follow it from the record.
    doubtful = suspicion is not None and (suspicion if kept else round(1 - suspicion, SUSPICION_DIGITS)) > limit
    in_doubt = {"answer": purified, "original": original, "abstain": None}[on_doubt]
    changes = {"label": in_doubt if doubtful else purified, "purified_label": purified, "doubtful": doubtful}
    return {**record, **changes}


def answered_again(job: FolderJob, records: ImageRecords) -> Iterator[dict[str, Any]]:
    """The records of these settings that the job's policy answers in another way, as they should be.

    Records of earlier versions, which have no suspicion, stay as they are.
    """
    for record in records.records(job.config_digest):
        if "suspicion" in record:
            changed = answered(record, job.on_doubt, job.doubt_limit)
            if changed != record:
                yield changed
