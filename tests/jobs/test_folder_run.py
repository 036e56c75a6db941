"""``purify_folder`` without a command line; ``tests/cli/test_cli_purify.py`` has what the command adds."""

import dataclasses
import errno
import json
import os
import sys
import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fakes import colour_labels
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense.profiles import PROFILES
from maskrestore.errors import ConfigError
from maskrestore.imaging.codec import DecodedImage, read_image, read_image_file, write_png
from maskrestore.jobs import FolderJob, purify_folder
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.types import Purification, StreamItem, StreamResult


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


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_that_were_written_are_recorded_when_a_later_one_cannot_be(
    photos, monkeypatch, tmp_path, threads, error
):
    def write(path: Path, image: torch.Tensor, **options) -> None:
        if path.stem == "8":
            raise error
        write_png(path, image, **options)

    monkeypatch.setattr("maskrestore.jobs.recorder._PARALLEL_WRITE_PIXELS", 1)
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
    read = DecodedImage(pixels=torch.zeros(3, 1, 1), bits=8)
    monkeypatch.setattr("maskrestore.jobs.folder_job.read_image_stream", lambda *values, **options: read)
    for name in ("result_files.write_png", "result_files.np.savez_compressed"):
        monkeypatch.setattr(f"maskrestore.jobs.{name}", lambda *values, **options: None)
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


def purified(source: Path, out: Path) -> dict[str, dict]:
    """Run the job and return its records; everything that was purified is what it was, in a file of its own."""
    job = folder_job(source, out)
    purify_folder(job)
    found = {record["file"]: record for record in map(json.loads, (out / "records.jsonl").open())}
    done = [record for record in found.values() if record["error"] is None]
    assert len({os.path.normcase(record[kind]).lower() for record in done for kind in ("output", "maps")}) == 2 * len(
        done
    )
    for record in done:
        assert torch.equal(read_image(out / record["output"]), read_image(source / record["file"]))
        assert (out / record["maps"]).is_file()
    return found


def test_any_name_has_results_of_its_own(tmp_path):
    names = [
        *("a.png", "A.png", "a.PNG", "a.jpg", "a", "a.png.webp", "b.jpg", "b.png/c.jpg", "b.png~/c.jpg", "b.npz/d.jpg"),
        *(
            "n" * 255,
            "n" * 251 + ".png",
            "n" * 251 + ".jpg",
            "\u5199" * 85,
            "two\nlines.png",
            "tab\t \u202e.png",
            " .png",
        ),
        *(
            os.fsdecode(b"\xff\xfe" * 60 + b".png"),
            "\xe9.png",
            "e\u0301.png",
            "D" * 255 + "/x.png",
            "d" * 251 + ".png/x",
        ),
        *("-.png", "%s {x}.png", "con.png", "CON.jpg", "x/Y.png", "X/y.png", "..png", "...png"[1:], "~.png"),
    ]
    names = sorted({name for name in names if not name.startswith(".")})
    source = tmp_path / "source"
    for index, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "one.png", torch.full((3, 2, 2), index / 255))
        (tmp_path / "one.png").rename(source / name)
    found = purified(source, tmp_path / "out")
    assert sorted(found) == names
    assert not [record for record in found.values() if record["error"]]
    # The name of a shortened result does not take the place of another's.
    shortened = Path(found["n" * 255]["output"]).name
    write_png(tmp_path / "one.png", torch.full((3, 2, 2), 0.8))
    (tmp_path / "one.png").rename(source / shortened)
    assert sorted(purified(source, tmp_path / "out")) == sorted([*names, shortened])


def test_results_that_took_the_place_of_others_are_not_theirs(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    write_png(source / "a.png", torch.zeros(3, 2, 2))
    purified(source, out)
    (source / "a.png").rename(tmp_path / "a.png")
    write_png(tmp_path / "one.png", torch.ones(3, 2, 2))
    (tmp_path / "one.png").rename(source / "a.webp")
    purified(source, out)  # into images/a.png
    (tmp_path / "a.png").rename(source / "a.png")
    assert len(purified(source, out)) == 2


def test_results_that_cannot_be_written_are_a_failure_of_their_image(photos, tmp_path):
    (tmp_path / "out/maps/sub").mkdir(parents=True)
    (tmp_path / "out/images").mkdir()
    (tmp_path / "out/images/sub").write_text("in the way")
    (tmp_path / "out/maps/4.npz").mkdir()
    job = folder_job(photos, tmp_path / "out")
    summary = purify_folder(job)
    assert (summary.purified, summary.failed, summary.left, summary.stopped) == (8, 2, 0, None)
    found = recorded(tmp_path)
    assert "File exists" in found["sub/9.png"]["error"]
    assert "label" not in found["sub/9.png"]  # it was not asked about
    assert "Is a directory" in found["4.png"]["error"]
    assert isinstance(found["4.png"]["label"], int)  # what was paid for is kept
    assert job.classifier.queries == 9


@pytest.mark.parametrize(("number", "asked"), [(errno.ENOSPC, 1), (errno.EACCES, 5)])
def test_a_full_disk_stops_the_run_and_answers_are_kept(photos, monkeypatch, tmp_path, number, asked):
    word = os.strerror(number)

    def write(*values, **options) -> None:
        raise OSError(number, word)

    monkeypatch.setattr("maskrestore.jobs.result_files.write_png", write)
    job = folder_job(photos, tmp_path / "out")
    summary = purify_folder(job)
    assert word in summary.stopped
    assert summary.stopped.startswith("results cannot be written")
    assert not summary.complete
    found = recorded(tmp_path)
    assert len(found) == summary.failed == job.classifier.queries == asked
    assert all(isinstance(record["label"], int) and word in record["error"] for record in found.values())
    monkeypatch.undo()
    assert purify_folder(folder_job(photos, tmp_path / "out")).purified == 10


def test_records_that_cannot_be_written_stop_the_run(photos, monkeypatch, tmp_path):
    append, calls = ImageRecords._append, []

    def refusing(self, line) -> None:
        calls.append(line)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, line)

    monkeypatch.setattr(ImageRecords, "_append", refusing)
    summary = purify_folder(folder_job(photos, tmp_path / "out"))
    assert "the records cannot be written" in summary.stopped
    assert (summary.purified, summary.left) == (3, 7)
    assert len(recorded(tmp_path)) == 3


def blocked(out: Path, how: str) -> str:
    """Make a folder of results unusable; returns what the error must name."""
    if how == "file":
        out.write_text("")
        return "it is a file, expected a folder"
    if how == "below a file":
        out.parent.write_text("")
        return "Not a directory"
    out.mkdir()
    for name in ("images", "maps"):
        if how == name:
            (out / name).write_text("")
            return f"{name}: it is a file, expected a folder"
    (out / how).mkdir()
    return f"{how}: it is a folder, expected a file"


@pytest.mark.parametrize("how", ["file", "below a file", "images", "maps", "records.jsonl", "report.html"])
def test_a_folder_that_cannot_be_written_is_found_before_the_first_query(photos, tmp_path, how):
    out = tmp_path / ("new/out" if how == "below a file" else "out")
    message = blocked(out, how)
    job = folder_job(photos, out)
    with pytest.raises(ConfigError, match=message):
        purify_folder(job)
    assert job.classifier.queries == 0


def test_a_full_disk_is_found_before_the_first_query(photos, tmp_path, monkeypatch):
    def write(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    job = folder_job(photos, tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"cannot be written into .*out: .*No space left on device; nothing was asked"
    ):
        purify_folder(job)
    assert job.classifier.queries == 0
    assert not list((tmp_path / "out").iterdir())


def test_what_is_left_out_is_counted_and_recorded(photos, tmp_path):
    (photos / "notes.txt").write_text("no picture")
    (photos / "sub/list.csv").write_text("1,2")
    (photos / ".hidden.png").write_text("")
    (tmp_path / "far").mkdir()
    write_png(tmp_path / "far/10.png", torch.zeros(3, 4, 4))
    (photos / "far").symlink_to(tmp_path / "far")
    (photos / "far/again").symlink_to(photos)
    summary = purify_folder(folder_job(photos, tmp_path / "out"))
    again = "folder that is read anyway, under another name"
    assert summary.left_out == {"not a picture": 2, again: 1, "hidden file": 1}
    assert summary.names_left_out["not a picture"] == ("notes.txt", "sub/list.csv")
    assert (summary.purified, summary.complete) == (11, True)
    found = recorded(tmp_path)
    assert found["far/10.png"]["error"] is None
    assert found["far/again"] == {"file": "far/again", "left_out": again, "error": f"left out: {again}"}
    assert sum("left_out" in record for record in found.values()) == 4
    # The next run counts anew.
    (photos / "notes.txt").unlink()
    write_png(photos / "sub/list.png", torch.zeros(3, 4, 4))
    (photos / "sub/list.png").rename(photos / "sub/list.csv")
    summary = purify_folder(folder_job(photos, tmp_path / "out"))
    assert summary.left_out == {again: 1, "hidden file": 1}
    assert (summary.purified, summary.reused, len(recorded(tmp_path))) == (12, 11, 14)


def test_results_inside_the_source_are_passed_over_and_pictures_beside_them_are_not(photos):
    summary = purify_folder(folder_job(photos, photos / "sub"))
    assert (summary.purified, summary.left_out) == (10, {})
    summary = purify_folder(folder_job(photos, photos / "sub"))
    assert (summary.purified, summary.reused, summary.left_out) == (10, 10, {})
    (photos / "sub/classes.json").write_text("[]")  # of a classifier that knows its classes
    assert purify_folder(folder_job(photos, photos / "sub")).left_out == {}


def test_16_bit_grey_keeps_its_depth_and_what_is_lost_is_noted(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    levels = torch.arange(1024).reshape(1, 32, 32) * 64 / 65535
    write_png(source / "grey.png", levels, bits=16)
    purify_folder(folder_job(source, tmp_path / "out"))
    record = recorded(tmp_path)["grey.png"]
    assert record["notes"] == []
    assert torch.equal(read_image(tmp_path / "out" / record["output"]), levels.expand(3, -1, -1))

    class ColouringDefense(KeepingDefense):
        def purify_stream(self, items, classifier, **options):
            for item in items:
                image = item.image.clone()
                image[0, :8] = 0.3
                yield from super().purify_stream([StreamItem(id=item.id, image=image)], classifier, **options)

    job = dataclasses.replace(folder_job(source, tmp_path / "out"), defense=ColouringDefense(), again=True)
    summary = purify_folder(job)
    record = recorded(tmp_path)["grey.png"]
    assert record["notes"] == ["restored in colour, written with 8 bits"]
    assert summary.notes == {"restored in colour, written with 8 bits": 1}
    assert read_image_file(tmp_path / "out" / record["output"]).bits == 8


def test_pictures_far_larger_than_the_restorers_are_noted(photos, tmp_path):
    write_png(photos / "large.png", torch.zeros(3, 8, 40))
    defense = KeepingDefense()
    defense.restorer = SimpleNamespace(network=SimpleNamespace(image_size=8))
    summary = purify_folder(dataclasses.replace(folder_job(photos, tmp_path / "out"), defense=defense))
    note = "far larger than the restorer's 8 x 8 pixels"
    assert summary.notes == {note: 1}
    assert [name for name, record in recorded(tmp_path).items() if record["notes"]] == ["large.png"]
