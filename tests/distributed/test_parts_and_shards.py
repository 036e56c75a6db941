"""What workers leave on disk, without a cluster."""

import dataclasses
import json
import os
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from cluster_jobs import Logged, logged_job, write_photos
from maskrestore.classifiers import HttpClassifier
from maskrestore.distributed.parts import PartLog
from maskrestore.distributed.shards import Shards, shard_of
from maskrestore.distributed.storage import Storage
from maskrestore.distributed.worker import Orders, Worker
from maskrestore.jobs import purify_folder
from maskrestore.jobs.answering import answered_again


@pytest.fixture
def job(tmp_path: Path):
    """A job whose six images have results as files."""
    job = logged_job(write_photos(tmp_path / "photos", 6), tmp_path / "files", Logged(log=tmp_path / "log"))
    purify_folder(job)
    return job


def test_settling_leaves_one_row_for_each_image(tmp_path, job):
    shards = Shards(Storage(tmp_path / "out"))
    with closing(job.open_records()) as records:
        made = list(records.records())
        first = shards.write("first", job.out, made)
        shards.write("orphan", job.out, made[2:4])  # its worker died before it could record it
        again = shards.write("again", job.out, made[:1])
        for record in (*first, *again):
            records.add(record)
        untouched = shards.write("untouched", job.out, [])
        shards.settle(records)
        rows = pq.read_table(tmp_path / "out/shards").to_pylist()
    assert untouched == []
    assert sorted(row["file"] for row in rows) == [record["file"] for record in made]
    assert [path.stem for path in sorted((tmp_path / "out/shards").iterdir())] == ["again-1", "first-6"]


def test_other_answers_are_written_into_the_rows_that_records_name(tmp_path, job):
    shards = Shards(Storage(tmp_path / "out"))
    with closing(job.open_records()) as records:
        made = [record | {"suspicion": 0.75} for record in records.records()]
        for record in shards.write("first", job.out, made):
            records.add(record)
        orphans = shards.write("orphan", job.out, made[:2])
        names = {shard_of(record) for record in (*records.records(), *orphans)}
        for record in list(answered_again(dataclasses.replace(job, on_doubt="abstain"), records)):
            records.amend(record)
        shards.answer_again({*names, "shards/gone-3.parquet"}, records)
        now = list(records.records())
    table = pq.read_table(tmp_path / "out/shards/first-6.parquet")
    rows = table.to_pylist()
    assert [json.loads(row["record"]) for row in rows] == now
    assert all((row["label"], row["doubtful"], row["suspicion"]) == (None, True, 0.75) for row in rows)
    assert [row["purified_label"] for row in rows] == [record["label"] for record in made]
    untouched = pq.read_table(tmp_path / "out/shards/orphan-2.parquet")
    assert [row["label"] for row in untouched.to_pylist()] == [record["label"] for record in made[:2]]
    assert table.schema.equals(untouched.schema, check_metadata=True)


def test_only_parts_of_another_run_are_read_again(tmp_path, job):
    log = PartLog(Storage(tmp_path / "out"))
    with closing(job.open_records()) as records:
        made = list(records.records())
    (job.out / "records.jsonl").unlink()
    log.write("mine", made[:2])
    log.write("other", [*made[2:4], {**made[4], "config_digest": "of other settings"}])
    with closing(job.open_records()) as records:
        files = log.absorb(records, job.config_digest, taken=["mine"])
        assert list(records.records()) == made[2:4]
    assert log.read("other")[:2] == made[2:4]
    log.forget(files)
    assert not list((tmp_path / "out/parts").iterdir())


def test_workers_share_the_requests_at_a_time_of_an_address(tmp_path, job, monkeypatch, server):
    classifier = HttpClassifier(server.address, body="png", label="label", concurrency=8)
    monkeypatch.setattr("os.chdir", lambda _: None)
    asking = dataclasses.replace(job, classifier=classifier)
    orders = Orders(
        make_job=lambda: asking, storage=Storage(tmp_path), shards=False, config_digest=asking.config_digest,
        folder=os.getcwd(), environment={}, threads=torch.get_num_threads(), workers=3,
    )  # fmt: skip
    Worker(orders, ledger=None)
    assert classifier.concurrency == 2
