"""Purify many images in a job that records each result and can be continued.

A folder, from Python (``model`` is a ``torch.nn.Module`` or a function from images to labels)::

    from pathlib import Path

    from maskrestore import BDMAE
    from maskrestore.jobs import FolderJob, purify_folder, write_folder_report

    job = FolderJob(
        source=Path("photos"),
        out=Path("cleaned"),
        defense=BDMAE(key="a secret of 16 characters or more"),
        classifier=model,
        classifier_id="stop signs, version 3",
    )
    summary = purify_folder(job)
    print(f"{summary.purified} purified, {summary.changed} labels changed, {summary.failed} failed")
    print(write_folder_report(job))

Calling it again continues where it stopped: images with a result of the same settings are not purified again.
"""

from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.folder_report import write_folder_report
from maskrestore.jobs.folder_run import purify_folder
from maskrestore.jobs.summary import FolderSummary

__all__ = ["FolderJob", "FolderSummary", "purify_folder", "write_folder_report"]
