"""``purify_folder`` over shards and URLs: the same results as over a folder, and resumed like it."""

import dataclasses
import json
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
from test_folder_run import KeepingDefense
from test_sources import write_tar

from fakes import colour_labels
from maskrestore.classifiers import CountingClassifier
from maskrestore.imaging.codec import read_image, write_png
from maskrestore.jobs import FolderJob, purify_folder, write_folder_report

COUNT = 12


@pytest.fixture
def pictures(tmp_path) -> list[bytes]:
    """Encoded images of different colours."""
    found = []
    for _ in range(COUNT):
        write_png(tmp_path / "one.png", torch.rand(3, 16, 16))
        found.append((tmp_path / "one.png").read_bytes())
    (tmp_path / "one.png").unlink()
    return found


def write_shards(kind: str, folder: Path, pictures: list[bytes]) -> list[str]:
    """Two shards in a folder; returns the names of the images."""
    folder.mkdir()
    halves = {0: pictures[: COUNT // 2], 1: pictures[COUNT // 2 :]}
    if kind == "folder":
        for number, picture in enumerate(pictures):
            (folder / f"{number:02}.png").write_bytes(picture)
        return [f"{number:02}.png" for number in range(COUNT)]
    for shard, half in halves.items():
        if kind == "tar":
            write_tar(folder / f"{shard}.tar", [(f"a/{row}.png", picture) for row, picture in enumerate(half)])
        else:
            pq.write_table(pa.table({"image": half}), folder / f"{shard}.parquet", row_group_size=4)
    row = "a/{}.png" if kind == "tar" else "{:09}"
    return [f"{shard}.{kind}/" + row.format(number) for shard in halves for number in range(COUNT // 2)]


def job_over(source: str | Path, out: Path, **options) -> FolderJob:
    classifier = CountingClassifier(options.pop("classify", colour_labels))
    return FolderJob(
        source=source, out=out, defense=KeepingDefense(), classifier=classifier, classifier_id="colours", **options
    )


def recorded(out: Path) -> dict[str, dict]:
    return {record["file"]: record for record in map(json.loads, (out / "records.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_shards_give_the_results_of_their_files(tmp_path, pictures, kind):
    of_files = recorded_results(tmp_path / "files", write_shards("folder", tmp_path / "files", pictures))
    names = write_shards(kind, tmp_path / "shards", pictures)
    assert recorded_results(tmp_path / "shards", names) == of_files


def recorded_results(source: Path, names: list[str]) -> list[tuple]:
    out = source.with_name(f"{source.name}-out")
    job = job_over(source, out, full_size=True)
    summary = purify_folder(job)
    assert (summary.purified, summary.failed, summary.complete) == (COUNT, 0, True)
    records = recorded(out)
    assert list(records) == names
    assert source.name in write_folder_report(job).read_text()
    return [
        (one["content"], one["label"], one["queries"], *(read_bytes(out, one[key]) for key in ("output", "full_size")))
        for one in records.values()
    ]


def read_bytes(out: Path, name: str) -> bytes:
    return (out / name).read_bytes()


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_job_over_shards_goes_on_where_it_was_interrupted(tmp_path, pictures, kind):
    names = write_shards(kind, tmp_path / "shards", pictures)
    asked = 0

    def interrupted(images):
        nonlocal asked
        if asked == 7:
            raise KeyboardInterrupt
        asked += len(images)
        return colour_labels(images)

    with pytest.raises(KeyboardInterrupt):
        purify_folder(job_over(tmp_path / "shards", tmp_path / "out", classify=interrupted))
    before = recorded(tmp_path / "out")
    assert list(before) == names[:7]
    job = job_over(tmp_path / "shards", tmp_path / "out")
    summary = purify_folder(job)
    assert (summary.purified, summary.reused, job.classifier.queries) == (COUNT, 7, COUNT - 7)
    assert {name: recorded(tmp_path / "out")[name] for name in before} == before
    again = job_over(tmp_path / "shards", tmp_path / "out")
    assert purify_folder(again).reused == COUNT
    assert again.classifier.queries == 0


def test_only_changed_images_of_a_shard_are_purified_again(tmp_path, pictures):
    write_shards("parquet", tmp_path / "shards", pictures)
    purify_folder(job_over(tmp_path / "shards", tmp_path / "out"))
    changed = [pictures[5], *pictures[1:6], *pictures[:2]]  # the first one is another, and two more rows
    pq.write_table(pa.table({"image": changed}), tmp_path / "shards/0.parquet")
    job = job_over(tmp_path / "shards", tmp_path / "out")
    summary = purify_folder(job)
    assert (summary.purified, summary.reused, job.classifier.queries) == (COUNT + 2, COUNT - 1, 3)


def test_members_whose_names_collide_as_files_have_results_each(tmp_path, pictures):
    names = ["a.png", "a.jpg", "A.png", "a.png", "x.png/b.jpg", "x.jpg", "n" * 90 + "/" + "m" * 300 + ".png"]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/0.tar", list(zip(names, pictures, strict=False)))
    assert purify_folder(job_over(tmp_path / "shards", tmp_path / "out")).purified == len(names)
    records = recorded(tmp_path / "out").values()
    assert len({one["output"].lower() for one in records}) == len(names)
    for one in records:
        assert (tmp_path / "out" / one["output"]).resolve().is_relative_to(tmp_path / "out/images")
        read_image(tmp_path / "out" / one["output"])


def test_a_row_without_a_picture_fails_and_does_not_stop_the_others(tmp_path, pictures):
    cells = [pictures[0], None, b"no picture", pictures[1]]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    summary = purify_folder(job_over(tmp_path / "a.parquet", tmp_path / "out"))
    assert (summary.purified, summary.failed) == (2, 2)
    assert [name for name, _ in summary.failures] == ["a.parquet/000000001", "a.parquet/000000002"]


def test_a_damaged_shard_makes_a_run_incomplete(tmp_path, pictures):
    write_shards("tar", tmp_path / "shards", pictures)
    with (tmp_path / "shards/1.tar").open("r+b") as file:
        file.truncate(3000)
    summary = purify_folder(job_over(tmp_path / "shards", tmp_path / "out"))
    assert not summary.complete
    assert summary.left_out == {"shard that is damaged or cut off": 1}


@pytest.mark.mlserver
@pytest.mark.parametrize("kind", ["folder", "parquet", "tar"])
def test_a_bucket_of_s3_gives_the_results_of_local_files(tmp_path, pictures, kind, bucket):
    name_of_bucket, files, options = bucket
    names = write_shards(kind, tmp_path / "local", pictures)
    pyarrow.fs.copy_files(str(tmp_path / "local"), f"{name_of_bucket}/sub/here", destination_filesystem=files)
    local = job_over(tmp_path / "local", tmp_path / "local-out")
    purify_folder(local)
    job = job_over(f"s3://{name_of_bucket}/sub/here{options}", tmp_path / "out")
    assert purify_folder(job).purified == COUNT
    records = recorded(tmp_path / "out")
    assert list(records) == names
    for name, one in recorded(tmp_path / "local-out").items():
        for key in ("content", "label", "queries", "output"):
            assert records[name][key] == one[key]
        assert read_bytes(tmp_path / "out", one["output"]) == read_bytes(tmp_path / "local-out", one["output"])
    again = dataclasses.replace(job, classifier=CountingClassifier(colour_labels))
    assert purify_folder(again).reused == COUNT
    assert again.classifier.queries == 0
    page = write_folder_report(job).read_text()
    assert urlsplit(options).query not in page
