"""``purify_folder`` without a command line; ``tests/cli/test_cli_purify.py`` has what the command adds."""

import json
import os
import sys
import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fakes import colour_labels
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense.profiles import PROFILES
from maskrestore.imaging.codec import write_png
from maskrestore.jobs import FolderJob, purify_folder
from maskrestore.types import Purification, StreamResult


def recorded(tmp_path: Path) -> dict[str, dict]:
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()
    return {record["file"]: record for record in map(json.loads, lines)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten small images, one of them in a folder of its own."""
    (tmp_path / "photos/sub").mkdir(parents=True)
    for name in (*map(str, range(9)), "sub/9"):
        write_png(tmp_path / f"photos/{name}.png", torch.rand(3, 16, 16))
    return tmp_path / "photos"


class KeepingDefense:
    """Asks once and changes nothing."""

    config, key, restorer = PROFILES["default"], 0, None

    def purify_stream(self, items, classifier, *, budget, asking):
        for item in items:
            images = item.image[None]
            labels = classifier(images)
            budget.spend(1)
            result = Purification(images=images, labels=labels, original_labels=labels, queries=torch.ones(1).long())
            yield StreamResult(id=item.id, result=result)


def folder_job(source: Path, out: Path) -> FolderJob:
    return FolderJob(
        source=source,
        out=out,
        defense=KeepingDefense(),
        classifier=CountingClassifier(colour_labels),
        classifier_id="colours",
    )


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_that_were_written_are_recorded_when_a_later_one_cannot_be(
    photos, monkeypatch, tmp_path, threads, error
):
    def write(path: Path, image: torch.Tensor) -> None:
        if path.stem == "8":
            raise error
        write_png(path, image)

    monkeypatch.setattr("maskrestore.jobs.folder_run._PARALLEL_WRITE_PIXELS", 1)
    monkeypatch.setattr("maskrestore.jobs.result_files.write_png", write)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(type(error)):
            purify_folder(folder_job(photos, tmp_path / "out"))
        done = recorded(tmp_path).keys()
        # sub/9.png may have been written beside 8.png.
        assert {f"{number}.png" for number in range(8)} <= done <= {*(f"{n}.png" for n in range(8)), "sub/9.png"}
        monkeypatch.setattr("maskrestore.jobs.result_files.write_png", write_png)
        job = folder_job(photos, tmp_path / "out")
        purify_folder(job)
    finally:
        torch.set_num_threads(before)
    assert job.classifier.queries == 10 - len(done)
    assert len(recorded(tmp_path)) == 10


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch, tmp_path):
    # Reading and writing files takes long and keeps nothing in memory.
    for name in ("folder_run.read_image", "result_files.write_png", "result_files.np.savez_compressed"):
        monkeypatch.setattr(f"maskrestore.jobs.{name}", lambda *values, **options: torch.zeros(3, 1, 1))
    # pathlib puts all names into Python's table of strings, which grows by megabytes at a time.
    monkeypatch.setattr(sys, "intern", str)

    def peak(count: int) -> int:
        source, out = (Path(tempfile.mkdtemp(dir=tmp_path)) for _ in range(2))
        for index in range(count):
            (source / f"{index}.png").touch()
        job = folder_job(source, out)
        tracemalloc.start()
        try:
            summary = purify_folder(job)
            assert summary.purified == count
            assert summary.reused == summary.left == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)  # what is loaded on first use
    few, many = peak(50), peak(2000)
    assert many - few < 100 * 1950  # bytes; the names alone would take more


def test_images_are_done_in_order_of_their_names(monkeypatch, tmp_path):
    names = ["a b.png", "a.png", "a/x.png", "b.png", "b/10.png", "b/9.png", "\xe4.png", os.fsdecode(b"\xff.png")]
    source, out = tmp_path / "source", tmp_path / "out"
    for name in reversed(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(source / "image.png", torch.zeros(3, 2, 2))
        (source / "image.png").rename(source / name)
    passed = []
    monkeypatch.setattr("maskrestore.jobs.folder_run._PROGRESS_STEP", 3)
    job = folder_job(source, out)
    summary = purify_folder(job, lambda done, total, note: passed.append((done, total)))
    assert (summary.purified, summary.reused, summary.failed) == (8, 0, 0)
    assert passed == [(done, 8) for done in range(1, 9)]
    again = purify_folder(job, lambda done, total, note: passed.append((done, total)))
    assert (again.purified, again.reused, again.queries) == (8, 8, 0)
    assert passed[8:] == [(3, 8), (6, 8), (8, 8)]
    with closing(job.open_records()) as records:
        assert [record["file"] for record in records.records()] == names
        assert all((out / record["output"]).is_file() for record in records.records())
    assert [json.loads(line)["file"] for line in (out / "records.jsonl").open()] == names
