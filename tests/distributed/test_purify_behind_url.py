"""Results and sources behind a URL: a server of S3 on this machine, from an environment of its own (``make peers``)."""

import functools
import json
from pathlib import Path

import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from cluster_jobs import Logged, logged_job, questions, write_photos
from maskrestore.distributed.purify import ClusterJob, purify_on_cluster
from maskrestore.distributed.report import write_cluster_report

pytestmark = [pytest.mark.mlserver, pytest.mark.usefixtures("cluster")]


def test_results_go_into_a_bucket_and_are_found_there_again(tmp_path, bucket):
    name, files, options = bucket
    photos = write_photos(tmp_path / "photos", 12)
    pyarrow.fs.copy_files(str(photos), f"{name}/photos", destination_filesystem=files)
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    log, url = tmp_path / "log", f"s3://{name}/cleaned{options}"

    def run(scratch: str, budget: int | None):
        make_job = functools.partial(
            logged_job, f"s3://{name}/photos{options}", tmp_path / scratch, Logged(log=log), budget=budget
        )
        job = make_job()
        job.out.mkdir()
        plan = ClusterJob(make_job=make_job, shards=True, url=url, workers=2, part_images=3, environment=keys)
        return purify_on_cluster(plan, job), write_cluster_report(plan, job)

    first, page = run("one", 6)
    assert (first.purified, first.left) == (6, 6)
    second, page = run("two", None)  # another machine, which knows the bucket only
    assert (second.purified, second.reused, second.queries) == (12, 6, 6)
    assert len(questions(log)) == len(set(questions(log))) == 12
    table = pq.read_table(f"{name}/cleaned/shards", filesystem=files)
    assert sorted(table["file"].to_pylist()) == [f"{number:03}.png" for number in range(12)]
    with files.open_input_stream(f"{name}/cleaned/records.jsonl") as stream:
        assert len([json.loads(line) for line in stream.read().splitlines()]) == 12
    with files.open_input_stream(f"{name}/cleaned/report.html") as stream:
        assert b"data:image/png" in stream.read()
    assert page == f"s3://{name}/cleaned/report.html"
    assert not files.get_file_info(pyarrow.fs.FileSelector(f"{name}/cleaned/parts", allow_not_found=True))
    assert not list(Path(tmp_path / "two").glob("shards"))
