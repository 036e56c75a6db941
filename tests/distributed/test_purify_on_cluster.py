"""A job on a cluster of one machine; ``tests/cluster`` has several, and their faults."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster_jobs import Logged, logged_job, name_of, questions, real_job, results, write_photos
from maskrestore.distributed.purify import ClusterJob, purify_on_cluster
from maskrestore.distributed.report import write_cluster_report
from maskrestore.errors import ConfigError
from maskrestore.imaging.codec import read_image
from maskrestore.jobs import FolderSummary, purify_folder

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("source") / "photos", 24)


def run(make_job, **options) -> FolderSummary:
    plan = ClusterJob(make_job=make_job, **{"part_images": 4, "workers": 2, **options})
    return purify_on_cluster(plan, make_job())


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_results_have_the_same_bits_as_those_of_one_process(tmp_path, photos):
    cautious = {"on_doubt": "abstain", "doubt_limit": 0.0}
    purify_folder(real_job(photos, tmp_path / "alone", **cautious))
    progress = []
    make_job = functools.partial(real_job, photos, tmp_path / "many", **cautious)
    plan = ClusterJob(make_job=make_job, part_images=5, workers=2)
    summary = purify_on_cluster(plan, make_job(), lambda done, total, note="": progress.append((done, total)))
    assert (summary.purified, summary.failed, summary.left, summary.complete) == (24, 0, 0, True)
    assert results(tmp_path / "many") == results(tmp_path / "alone")
    assert summary.abstained == sum(record["label"] is None for record in results(tmp_path / "alone").values()) > 0
    assert summary.queries == sum(record["queries"] for record in results(tmp_path / "many").values())
    for kind in ("images", "maps"):
        assert files_below(tmp_path / "many" / kind) == files_below(tmp_path / "alone" / kind)
    assert progress[-1] == (24, 24)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert not list((tmp_path / "many/parts").iterdir())


@pytest.mark.cluster
def test_each_continues_what_the_other_began(tmp_path, photos):
    log, out = tmp_path / "log", tmp_path / "out"
    few = logged_job(photos, out, Logged(log=log), budget=7)
    assert purify_folder(dataclasses.replace(few, answer_cache=False)).purified == 7
    make_job = functools.partial(logged_job, photos, out, Logged(log=log))
    assert run(functools.partial(make_job, budget=9)).purified == 16
    summary = purify_folder(make_job())
    assert (summary.purified, summary.reused, summary.queries) == (24, 16, 8)
    assert run(make_job).queries == 0
    assert len(questions(log)) == len(set(questions(log))) == 24


@pytest.mark.cluster
def test_shards_hold_a_row_for_each_image(tmp_path, photos):
    purify_folder(real_job(photos, tmp_path / "alone"))
    out = tmp_path / "shards"
    make_job = functools.partial(real_job, photos, out)
    run(make_job, shards=True)
    run(functools.partial(make_job, key=4), shards=True)  # all are done again, and their rows replaced
    assert run(functools.partial(make_job, key=4), shards=True).queries == 0
    rows = pq.read_table(out / "shards").to_pylist()
    assert sorted(row["file"] for row in rows) == sorted(results(tmp_path / "alone"))
    purify_folder(real_job(photos, tmp_path / "again", key=4))
    of_files = results(tmp_path / "again")
    for row in rows:
        (tmp_path / "one.png").write_bytes(row["image"]["bytes"])
        alone = of_files[row["file"]]
        assert row["label"] == alone["label"]
        assert (read_image(tmp_path / "one.png") == read_image(tmp_path / "again" / alone["output"])).all()
        assert row["maps"] == (tmp_path / "again" / alone["maps"]).read_bytes()
    make_job = functools.partial(make_job, on_doubt="abstain", doubt_limit=0.0)
    summary = run(functools.partial(make_job, key=4), shards=True)
    assert (summary.queries, summary.abstained) == (0, summary.doubtful)
    labels = {row["file"]: row["label"] for row in pq.read_table(out / "shards").to_pylist()}
    assert labels == {name: record["label"] for name, record in results(out).items()}
    assert None in labels.values()
    plan = ClusterJob(make_job=make_job, shards=True)
    page = write_cluster_report(plan, make_job(key=4))
    assert Path(page).read_text().count("data:image/png") >= 24


@pytest.mark.cluster
def test_a_worker_that_dies_loses_its_part_only(tmp_path, photos):
    log, out = tmp_path / "log", tmp_path / "out"
    deadly = name_of(read_image(photos / "017.png"))
    summary = run(functools.partial(logged_job, photos, out, Logged(log=log, deadly=deadly, deaths=1)))
    assert (summary.purified, summary.failed) == (24, 0)
    asked = questions(log)
    again = {name for name in asked if asked.count(name) > 1}
    assert again <= {name_of(read_image(photos / f"{number:03}.png")) for number in (16, 17)}
    assert len(set(asked)) == 24


@pytest.mark.cluster
def test_an_image_that_kills_every_worker_fails_with_its_part(tmp_path, photos):
    log, out = tmp_path / "log", tmp_path / "out"
    deadly = name_of(read_image(photos / "005.png"))
    make_job = functools.partial(logged_job, photos, out, Logged(log=log, deadly=deadly))
    summary = run(make_job)
    assert (summary.purified, summary.failed) == (20, 4)
    assert questions(log).count(deadly) == 3
    assert "3 workers died" in results(out)["005.png"]["error"]
    healed = run(functools.partial(logged_job, photos, out, Logged(log=log)))
    assert (healed.purified, healed.queries) == (24, 4)


@pytest.mark.cluster
def test_a_budget_holds_for_all_workers_together(tmp_path, photos):
    log = tmp_path / "log"
    summary = run(functools.partial(logged_job, photos, tmp_path / "out", Logged(log=log), budget=10), part_images=2)
    assert "budget of 10" in summary.stopped
    assert summary.purified == summary.queries == len(questions(log)) == 10
    assert summary.left == 14


def other_job(source: Path, out: Path, home: int):
    """Other results wherever it is not made by this process."""
    return real_job(source, out, key=3 if os.getpid() == home else 4)


@pytest.mark.cluster
def test_a_machine_with_other_results_must_not_work(tmp_path, photos):
    summary = run(functools.partial(other_job, photos, tmp_path / "out", os.getpid()))
    assert "would differ" in summary.stopped
    assert (summary.purified, summary.left) == (0, 24)


def broken_job(source: Path, out: Path, home: int):
    if os.getpid() != home:
        raise ConfigError("no such model here")
    return real_job(source, out)


@pytest.mark.cluster
def test_a_worker_that_cannot_begin_says_why(tmp_path, photos):
    summary = run(functools.partial(broken_job, photos, tmp_path / "out", os.getpid()))
    assert "no such model here" in summary.stopped


def test_options_that_exclude_each_other_are_refused(tmp_path, photos):
    make_job = functools.partial(real_job, photos, tmp_path / "out")
    with pytest.raises(ConfigError, match="parquet files only"):
        ClusterJob(make_job=make_job, url="s3://bucket/out")
    with pytest.raises(ConfigError, match="full size"):
        run(functools.partial(make_job, full_size=True), shards=True)


@pytest.mark.cluster
def test_no_image_is_asked_about_twice_if_the_command_is_killed(tmp_path, photos):
    log, out = tmp_path / "log", tmp_path / "out"
    program = f"""
import functools, pathlib
from cluster_jobs import Logged, logged_job
from maskrestore.distributed.cluster import connect
from maskrestore.distributed.purify import ClusterJob, purify_on_cluster
make_job = functools.partial(
    logged_job, pathlib.Path({str(photos)!r}), pathlib.Path({str(out)!r}),
    Logged(log=pathlib.Path({str(log)!r}), seconds=0.2))
with connect("local"):
    purify_on_cluster(ClusterJob(make_job=make_job, part_images=2, workers=1), make_job())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    try:
        wait_for(lambda: len(questions(log)) >= 7)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until_quiet(log)
    finished = list((out / "parts").glob("*.jsonl"))
    before = questions(log)
    summary = run(functools.partial(logged_job, photos, out, Logged(log=log)))
    assert summary.purified == 24
    assert summary.queries == 24 - 2 * len(finished)
    assert len(finished) >= 3
    assert len(questions(log)) == len(before) + summary.queries
    assert len(results(out)) == 24


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)


def wait_until_quiet(log: Path) -> None:
    """Until no process that has lost its parent asks any more."""
    count = -1
    while count != len(questions(log)):
        count = len(questions(log))
        time.sleep(2)
