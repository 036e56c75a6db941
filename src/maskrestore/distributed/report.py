"""The report of a job on a cluster, beside its results."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from maskrestore.distributed.purify import ClusterJob
from maskrestore.distributed.shards import Shards
from maskrestore.distributed.storage import Storage
from maskrestore.jobs import FolderJob, write_folder_report
from maskrestore.types import Purification

__all__ = ["write_cluster_report"]

_BESIDE = ("report.html", "classes.json")


def write_cluster_report(plan: ClusterJob, job: FolderJob, **options: Any) -> str:
    """Write ``report.html`` where the results are, and return its path or URL.

    options: those of :func:`maskrestore.jobs.write_folder_report`, but ``load``. Raises what that raises, and OSError.
    """
    if not plan.shards:
        return str(write_folder_report(job, **options))
    storage = Storage(plan.url or job.out)
    shards = Shards(storage)
    with TemporaryDirectory(prefix="maskrestore-") as folder:

        def load(record: dict[str, Any]) -> Purification:
            return shards.load(record, Path(folder), keep_grey=job.keep_grey)

        page = write_folder_report(job, **options, load=load)
    if plan.url is None:
        return str(page)
    for name in _BESIDE:
        if (job.out / name).exists():
            storage.write(name, (job.out / name).read_bytes())
    return f"{storage.shown.rstrip('/')}/report.html"
