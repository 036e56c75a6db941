"""Purify the images of a job on all machines of a cluster: each has one record, whatever dies meanwhile.

This process lists the images and hands them out in parts; Ray Data runs the workers, passes the parts to them, and
tries those again whose worker or machine died. A worker keeps the records of a part in a file before it says that it
is finished, so nothing that is finished is done or paid twice. This process adds the records to ``records.jsonl``; if
it dies, the next run finds those files.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from maskrestore.classifiers import HttpClassifier
from maskrestore.distributed.cluster import Share, cluster_size, share_of
from maskrestore.distributed.ledger import JobLedger
from maskrestore.distributed.nodes import check_nodes
from maskrestore.distributed.parts import Outcome, PartLog, parts_of
from maskrestore.distributed.shards import Shards, shard_of
from maskrestore.distributed.storage import Storage
from maskrestore.distributed.worker import Orders, Worker
from maskrestore.errors import ConfigError, MaskRestoreError
from maskrestore.jobs.answering import answered_again
from maskrestore.jobs.folder_job import FolderJob
from maskrestore.jobs.folder_run import MAX_FAILURES_AT_START, keep_classes
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.summary import FolderSummary, summary_of
from maskrestore.types import Progress

__all__ = ["ClusterJob", "purify_on_cluster"]

_MOST_BLOCKS = 4096
"""Pieces that the parts are handed to Ray in. It keeps a note of each in memory."""

_KNOWN = ("config_digest", "content", "error")
_KNOWN_FILES = ("output", "maps")
"""Entries of a record that tell whether an image is done; see :func:`~maskrestore.jobs.job_files.is_done`."""


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """How a job is spread over a cluster, and where its results go."""

    make_job: Callable[[], FolderJob]
    """Makes the job, with its networks, in each worker. It must be possible to pickle it. Paths in the job must be good
    on all machines: on a shared file system, or URLs."""
    shards: bool = False
    """Write results as rows of parquet files, not as a file each."""
    url: str | None = None
    """Of a folder for the shards and the records, instead of the folder of the job."""
    workers: int | None = None
    """``None``: one for each GPU if the restorer runs on one, else one for each core. Fewer have several cores each."""
    part_images: int = 64
    """Images that are recorded together. If a worker dies, those of its part are done again."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that workers need on other machines."""

    def __post_init__(self) -> None:
        if self.url is not None and not self.shards:
            raise ConfigError(f"results behind a URL are written as parquet files only, not one by one: {self.url}")
        for name in ("workers", "part_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")


def purify_on_cluster(plan: ClusterJob, job: FolderJob, progress: Progress | None = None) -> FolderSummary:
    """Purify all images of a job that have no result yet, on the cluster that this process is connected to.

    job: as ``plan.make_job`` makes it. The result of an image has the same bits as with
    :func:`maskrestore.jobs.purify_folder`, whose results a run continues and which continues those of this one. The
    budget of queries holds for all workers together. Answers are not cached: what a worker that died had asked about
    its last part is asked again. For the rest see there.

    Raises ImageFileError if there is no image at the source, ConfigError if results cannot be written or the options
    exclude each other or a machine has another maskrestore, and MaskRestoreError if Ray gives up.
    """
    started = time.perf_counter()
    if job.full_size and plan.shards:
        raise ConfigError("pictures in full size are files of their own; leave out --full-size or the parquet files")
    job.check_out()
    storage = Storage(plan.url or job.out)
    storage.check()
    check_nodes()
    if plan.url is not None and (kept := storage.read("records.jsonl")) is not None:
        (job.out / "records.jsonl").write_bytes(kept)
    with closing(job.open_records()) as records:
        run = _Run(plan, job, records, storage, progress)
        try:
            run.purify()
            keep_classes(job)
            if isinstance(job.classifier, HttpClassifier) and plan.url is None:
                job.classifier.keep_classes(job.out / "classes.json")  # those that the workers have heard of
            return run.summary(time.perf_counter() - started)
        finally:
            run.close()


class _Run:
    """One run of a job."""

    def __init__(
        self, plan: ClusterJob, job: FolderJob, records: ImageRecords, storage: Storage, progress: Progress | None
    ) -> None:
        import ray  # noqa: PLC0415 - an extra
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Beside  # noqa: PLC0415

        self._plan, self._job, self._records, self._progress = plan, job, records, progress
        self._storage, self._log, self._shards = storage, PartLog(storage), Shards(storage)
        self._stopped: str | None = None
        here = Beside(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0)(JobLedger).options(scheduling_strategy=here)
        self._ledger: Any = actor.remote(job.budget)
        self._passed = self._failed = 0
        self._taken: set[str] = set()

    def purify(self) -> None:
        """Purify and record, until the end or until it has to stop."""
        import ray  # noqa: PLC0415 - an extra

        try:
            self._log.absorb(self._records, self._job.config_digest)
            self._answer_again()
            self._records.compact()  # says what is left out, also if the run is interrupted
            for outcome in self._outcomes():
                self._take(outcome)
            files = self._log.absorb(self._records, self._job.config_digest, self._taken)
            if self._plan.shards:
                self._shards.settle(self._records)
            self._records.compact()
            if self._plan.url is not None:
                self._storage.write("records.jsonl", (self._job.out / "records.jsonl").read_bytes())
            self._log.forget(files)
        except ray.exceptions.RayError as error:
            raise MaskRestoreError(f"the cluster gave up: {' '.join(str(error).split())}") from error
        except OSError as error:  # no room for records, say: those of finished parts are found by the next run
            self._end(str(error))

    def summary(self, seconds: float) -> FolderSummary:
        """What this run did, and how many images have a result now."""
        import ray  # noqa: PLC0415 - an extra

        queries = ray.get(self._ledger.spent.remote())
        return summary_of(self._job, self._records, queries=queries, seconds=seconds, stopped=self._stopped)

    def close(self) -> None:
        """End the ledger."""
        import ray  # noqa: PLC0415 - an extra

        ray.kill(self._ledger)

    def _answer_again(self) -> None:
        """Give results of earlier runs the answers of this job's policy for doubt."""
        stale = set()
        for record in answered_again(self._job, self._records):
            self._records.amend(record)
            stale.add(shard_of(record))
        if self._plan.shards:  # before the records: if this is interrupted, the next run does it again
            self._shards.answer_again(stale, self._records)

    def _outcomes(self) -> Iterator[Outcome]:
        """Of all parts, or until every worker has heard that the job is to end."""
        import ray  # noqa: PLC0415 - an extra

        share = self._share()
        orders = Orders(
            make_job=self._plan.make_job,
            storage=self._storage,
            shards=self._plan.shards,
            config_digest=self._job.config_digest,
            folder=os.getcwd(),
            environment=self._plan.environment,
            threads=share.cores,
            workers=share.workers,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        data = ray.data.from_arrow_refs(list(self._blocks())).map(
            Worker,
            fn_constructor_kwargs={"orders": orders, "ledger": self._ledger},
            compute=ray.data.ActorPoolStrategy(size=share.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=share.cores,
            num_gpus=share.gpus,
        )
        idle = set()
        for row in data.iter_rows():
            outcome = Outcome.from_row(row)
            yield outcome
            if outcome.passed_over:
                idle.add(outcome.worker)
                if len(idle) == share.workers:
                    return

    def _share(self) -> Share:
        device = str(getattr(self._job.defense.restorer, "device", "cpu")).partition(":")[0]
        share = share_of(cluster_size(), device, self._plan.workers)
        classifier = self._job.classifier
        if isinstance(classifier, HttpClassifier) and share.workers > classifier.concurrency:
            # An address gets no more requests at a time than from one machine.
            return share_of(cluster_size(), device, classifier.concurrency)
        return share

    def _blocks(self) -> Iterator[Any]:
        """The parts as tables in Ray's memory, which spills to disk: this process holds one at a time."""
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import ray  # noqa: PLC0415

        size = self._plan.part_images
        each = -(-len(self._records) // (size * _MOST_BLOCKS))
        parts = parts_of(self._records, uuid.uuid4().hex[:12], size, self._known_of())
        while block := [part.to_row() for part in islice(parts, each)]:
            yield ray.put(pa.Table.from_pylist(block))

    def _known_of(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        written = set(self._shards.names()) if self._plan.shards else set()
        entries = _KNOWN if self._plan.shards else _KNOWN + _KNOWN_FILES

        def known(record: dict[str, Any]) -> dict[str, Any]:
            here = shard_of(record) in written if self._plan.shards else record.get("output", "").startswith("images/")
            return {entry: record[entry] for entry in entries} if here and record["error"] is None else {}

        return known

    def _take(self, outcome: Outcome) -> None:
        self._taken.add(outcome.id)
        for record in outcome.records:
            self._records.add(record)
            self._failed += record["error"] is not None
        if outcome.stopped is not None:
            self._end(outcome.stopped)
        elif self._failed >= MAX_FAILURES_AT_START and not self._records.purified:
            self._end(f"all of the first {self._failed} images failed")
        if not outcome.passed_over:
            self._passed += outcome.images
            if self._progress is not None:
                self._progress(self._passed, len(self._records))

    def _end(self, reason: str) -> None:
        self._stopped = self._stopped or reason
        self._ledger.end.remote(reason)
