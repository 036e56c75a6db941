import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import maskrestore
from maskrestore.defense.batching import Limits
from maskrestore.defense.profiles import PROFILES
from maskrestore.defense.streams import key_fingerprint
from maskrestore.errors import ConfigError, RetryLater
from maskrestore.imaging.codec import read_image, write_png

pytestmark = pytest.mark.usefixtures("grey_restorer")


@pytest.fixture
def purify(invoke, model, photos, tmp_path):
    def run(*options: object, source: Path = photos):
        return invoke(*("purify", source, "--classifier", "toy_model:classify", "--out", tmp_path / "out", *options))

    return run


def records(tmp_path: Path) -> dict[str, dict]:
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()
    loaded = [json.loads(line) for line in lines]
    assert len({record["file"] for record in loaded}) == len(loaded)
    return {record["file"]: record for record in loaded}


def test_a_folder_is_purified(purify, model, photos, tmp_path):
    result = purify()
    assert result.exit_code == 0, result.output
    found = records(tmp_path)
    assert sorted(found) == sorted([*(f"{index}.png" for index in range(9)), "sub/9.png"])
    for name, record in found.items():
        original, purified = read_image(photos / name), read_image(tmp_path / "out" / record["output"])
        assert purified.shape == original.shape
        assert record["error"] is None
        assert record["seconds"] > 0
        assert 0 <= record["restored"] <= 1
        assert (record["restored"] == 0) <= torch.equal(purified, original)
        assert (record["original_label"] == 7) == (name in ("0.png", "1.png", "2.png"))
        assert record["label"] != 7
    assert sum(record["queries"] for record in found.values()) == model.asked
    assert "10 images purified" in result.stdout
    assert f"{model.asked} queries" in result.stdout
    page = (tmp_path / "out/report.html").read_text()
    assert all(name in page for name in found)


def test_a_single_image(purify, photos, tmp_path):
    result = purify(source=photos / "0.png")
    assert result.exit_code == 0, result.output
    assert list(records(tmp_path)) == ["0.png"]
    assert (tmp_path / "out/images/0.png").is_file()


def test_a_broken_file_is_reported_and_the_rest_done(purify, photos, tmp_path):
    (photos / "5.png").write_bytes((photos / "5.png").read_bytes()[:60])
    (photos / "6.png").write_bytes(b"")
    result = purify()
    assert result.exit_code == 1
    found = records(tmp_path)
    assert [name for name, record in found.items() if record["error"]] == ["5.png", "6.png"]
    assert "5.png" in result.stderr
    assert "2 images failed" in result.stderr
    assert "8 images purified" in result.stdout
    assert "6.png" in (tmp_path / "out/report.html").read_text()


def test_one_is_not_said_in_the_plural(purify, photos):
    for name in range(7):
        (photos / f"{name}.png").unlink()
    (photos / "8.png").write_bytes(b"")
    (photos / "sub/9.png").unlink()
    result = purify()
    assert "1 image purified" in result.stdout
    assert "1 image failed" in result.stderr
    assert "8.png: not an image: the file is empty" in result.stderr
    assert not re.search(r"\b1 (images|labels|answers|queries)\b", result.output)


def test_a_damaged_map_does_not_cost_the_report(purify, photos, tmp_path):
    assert purify().exit_code == 0
    maps = tmp_path / "out/maps/0.npz"
    maps.write_bytes(maps.read_bytes()[:100])
    result = purify()
    assert result.exit_code == 0, result.output
    assert "0.png" in (tmp_path / "out/report.html").read_text()


def test_only_what_failed_is_tried_again(purify, model, photos, tmp_path):
    good = (photos / "5.png").read_bytes()
    (photos / "5.png").write_bytes(b"nonsense")
    assert purify().exit_code == 1
    asked = model.asked
    (photos / "5.png").write_bytes(good)
    result = purify()
    assert result.exit_code == 0, result.output
    assert "(9 of them by an earlier run)" in result.stdout
    assert model.asked - asked == records(tmp_path)["5.png"]["queries"]


def test_finished_images_are_not_done_again(purify, model, tmp_path):
    purify()
    before, asked = (tmp_path / "out/records.jsonl").read_text(), model.asked
    assert purify().exit_code == 0
    assert model.asked == asked
    assert (tmp_path / "out/records.jsonl").read_text() == before


def test_changed_files_settings_and_results_are_done_again(purify, model, photos, tmp_path):
    purify()
    write_png(photos / "3.png", torch.zeros(3, 16, 16))
    (tmp_path / "out/images/4.png").unlink()
    result = purify()
    assert "(8 of them by an earlier run)" in result.stdout
    assert "(0 of them by an earlier run)" in purify("--set", "masks.rounds=4").stdout


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_goes_on(purify, model, tmp_path):
    # Batches of two: interrupted within the third.
    model.fail_at, model.error = 8, KeyboardInterrupt()
    result = purify("--batch", 2)
    assert result.exit_code == 130
    assert "same command again" in result.stderr
    done = records(tmp_path)
    assert 0 < len(done) < 10
    with (tmp_path / "out/records.jsonl").open("a") as file:
        file.write('{"file": "8.png", "conte')  # the line that was being written
    model.fail_at = None
    result = purify("--batch", 2)
    assert result.exit_code == 0, result.output
    assert f"({len(done)} of them by an earlier run)" in result.stdout
    assert len(records(tmp_path)) == 10


def test_results_do_not_depend_on_the_interruption(purify, model, tmp_path):
    model.fail_at, model.error = 8, KeyboardInterrupt()
    purify("--batch", 2)
    model.fail_at = None
    purify("--batch", 2)
    parts = {name: record | {"seconds": 0} for name, record in records(tmp_path).items()}
    (tmp_path / "out/records.jsonl").unlink()
    purify()
    assert {name: record | {"seconds": 0} for name, record in records(tmp_path).items()} == parts


def test_a_classifier_that_raises_half_way_keeps_what_is_finished(purify, model, tmp_path):
    model.fail_at = 8
    result = purify("--batch", 2)
    assert result.exit_code == 1
    found = records(tmp_path)
    failed = [name for name, record in found.items() if record["error"]]
    done = len(found) - len(failed)
    assert done > 0
    assert len(failed) == 5
    assert "the line is dead" in found[failed[0]]["error"]
    assert "5 times in a row, at last with RuntimeError: the line is dead" in result.stderr
    assert re.search(rf"{5 - done} images? left, \d+ answers kept; to go on: maskrestore", result.stderr)
    answered, model.fail_at = model.asked, None
    result = purify("--batch", 2)
    assert result.exit_code == 0
    assert f"({done} of them by an earlier run)" in result.stdout
    assert model.asked == sum(record["queries"] for record in records(tmp_path).values()), answered
    assert not (tmp_path / "out/answers.sqlite").exists()


@pytest.mark.parametrize("batch", [(), ("--batch", 1)])
def test_answers_before_a_rate_limit_are_kept(purify, model, tmp_path, batch):
    """Case 17: an API that answers 100 pictures and then raises an error of its own kind."""
    answer, sent, answered, limit = model.classify, 0, 0, 100

    def api(images):
        nonlocal sent, answered
        for _ in images:
            sent += 1
            if sent > limit:
                raise Exception("429, try again in 30 s")
        answered += len(images)
        return answer(images)

    model.classify = api
    result = purify(*batch)
    assert result.exit_code == 1
    assert sent - limit <= 6  # the one that failed, and few further ones
    assert "5 times in a row, at last with Exception: 429" in result.stderr
    assert "a function that raises maskrestore.errors.RetryLater is waited for" in " ".join(result.stderr.split())
    said = re.search(r" images? left, (\d+) answers kept; to go on: maskrestore", result.stderr)
    assert said is not None
    assert 0.9 * answered <= int(said[1]) <= answered  # a few pictures of an image are the same
    kept, limit = answered, 10**6
    assert kept >= (70 if batch else 10)
    result = purify(*batch)
    assert result.exit_code == 0
    assert answered == sum(record["queries"] for record in records(tmp_path).values())  # none was asked twice
    assert answered > kept


def test_a_request_to_wait_is_followed(purify, model, monkeypatch, tmp_path):
    waits = []
    monkeypatch.setattr("maskrestore.classifiers.retrying.time.sleep", waits.append)
    answer, sent = model.classify, 0

    def api(images):
        nonlocal sent
        sent += 1
        if sent % 5 == 0:
            raise RetryLater(30)
        return answer(images)

    model.classify = api
    result = purify()
    assert result.exit_code == 0, result.output
    assert set(waits) == {30}
    assert len(records(tmp_path)) == 10


def test_images_that_failed_come_last(purify, model, photos):
    """Else a run that stops after five failures in a row would never get past them."""
    answer = model.classify
    bad = [read_image(photos / f"{number}.png") for number in range(6)]

    def choosy(images):
        if any(torch.equal(image, one) for image in images for one in bad):
            raise ValueError("too dark")
        return answer(images)

    model.classify = choosy
    first = purify("--batch", 1)
    assert "0 images purified" in first.stdout
    assert "5 images left" in first.stderr
    assert "4 images purified" in purify("--batch", 1).stdout


def test_an_image_that_the_classifier_fails_at_does_not_fail_its_neighbours(purify, model, photos, tmp_path):
    answer, dark = model.classify, read_image(photos / "5.png")

    def choosy(images):
        if any(torch.equal(image, dark) for image in images):
            raise ValueError("too dark")
        return answer(images)

    model.classify = choosy
    result = purify()
    assert result.exit_code == 1
    assert "failed: 5.png: ValueError: too dark" in result.stderr
    assert [name for name, record in records(tmp_path).items() if record["error"]] == ["5.png"]


def test_a_classifier_that_fails_at_everything_is_not_asked_about_a_whole_folder(purify, model, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(40):
        write_png(folder / f"{index:02}.png", torch.rand(3, 8, 8))
    model.fail_at = 0
    result = purify("--batch", 16, source=folder)
    assert result.exit_code == 1
    assert "stopped: the classifier failed 5 times in a row" in result.stderr
    assert "35 images left" in result.stderr
    assert len(records(tmp_path)) == 5
    assert model.calls <= 6


def test_another_model_under_the_same_name_is_asked_again(purify, model, tmp_path):
    purify()
    assert "(10 of them by an earlier run)" in purify().stdout
    assert "(0 of them by an earlier run)" in purify("--again").stdout
    source = Path(model.__file__)
    source.write_text(source.read_text() + "# another model\n")
    assert "(0 of them by an earlier run)" in purify().stdout


def test_folders_that_cannot_be_read_are_said_in_the_end(purify, photos, monkeypatch):
    scan = os.scandir

    def refusing(folder):
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    result = purify()
    assert result.exit_code == 1
    assert "9 images purified" in result.stdout
    assert "left out: 1 folder that cannot be read: sub" in result.stderr


def test_a_single_query_tells_nothing_of_changed_labels(purify):
    assert "labels changed" in purify().stdout
    result = purify("--max-queries", 1)
    assert "10 images purified" in result.stdout
    assert "labels changed" not in result.stdout


@pytest.mark.parametrize("batch", [2, 32])
def test_the_query_budget_ends_the_run(purify, model, tmp_path, batch):
    result = purify("--batch", batch, "--budget", 150)
    assert result.exit_code == 1
    assert model.asked <= 150
    assert "budget of 150" in result.stderr
    done = records(tmp_path)
    assert 0 < len(done) < 10
    assert not any(record["error"] for record in done.values())
    assert f"{10 - len(done)} images left" in result.stderr
    # All that was asked about is kept, and no further image was certain to fit.
    assert sum(record["queries"] for record in done.values()) == model.asked > 150 - PROFILES["default"].max_queries
    assert purify("--batch", batch).exit_code == 0
    assert len(records(tmp_path)) == 10


def test_a_budget_that_suffices_for_no_image_spends_nothing(purify, model, tmp_path):
    result = purify("--budget", 46)
    assert result.exit_code == 2
    assert "an image may take 47 queries, more than --budget 46" in result.stderr
    assert model.asked == 0
    assert purify("--budget", 46, "--max-queries", 46).exit_code == 1
    assert 1 <= len(records(tmp_path)) < 10


def test_settings_that_change_nothing_are_not_another_configuration(purify, model, tmp_path):
    purify()
    asked = model.asked
    assert "(10 of them by an earlier run)" in purify("--max-queries", 47).stdout
    assert model.asked == asked
    page = (tmp_path / "out/report.html").read_text()
    assert "max_queries" in page
    assert "group_testing" not in page  # a stage that is off


def test_results_of_other_settings_are_not_reported_as_those_of_this_run(purify, tmp_path):
    assert "10 images purified (0 of" in purify().stdout
    result = purify("--profile", "paper", "--budget", 100)
    assert result.exit_code == 1
    page = (tmp_path / "out/report.html").read_text()
    done = [name for name, record in records(tmp_path).items() if name in page]
    assert 2 <= len(done) < 10
    assert f"{len(done)} images purified (0 of them" in result.stdout
    assert f"not counted: {10 - len(done)} images with results of other settings only" in result.stderr


def test_a_classifier_that_answers_logits_is_explained(invoke, model, photos, tmp_path):
    result = invoke("purify", photos, "--classifier", "toy_model:logits", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "logits" in records(tmp_path)["0.png"]["error"]


def test_the_key_is_used_and_never_written(purify, monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRESTORE_KEY", "correct horse battery")
    result = purify()
    assert result.exit_code == 0
    assert "warning" not in result.stderr
    for record in records(tmp_path).values():
        assert record["key_fingerprint"] == key_fingerprint(b"correct horse battery")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"battery" not in path.read_bytes()
    (tmp_path / "key").write_text("correct horse battery\n")
    monkeypatch.delenv("MASKRESTORE_KEY")
    assert "(10 of them by an earlier run)" in purify("--key-file", tmp_path / "key").stdout
    assert "(0 of them by an earlier run)" in purify().stdout


def test_without_a_key_there_is_a_warning(purify):
    assert "warning: no key" in purify().stderr


def test_results_inside_the_source_are_not_purified(purify, photos, tmp_path):
    purify("--out", photos / "out")
    result = purify("--out", photos / "out")
    assert "10 images purified (10 of them" in result.stdout


def test_files_with_one_stem_do_not_overwrite_each_other(purify, photos, tmp_path):
    for name in ("0.bmp", "0.PNG.png"):
        (photos / name).write_bytes((photos / "3.png").read_bytes())
    purify()
    outputs = {name: record["output"] for name, record in records(tmp_path).items()}
    assert outputs["0.bmp"] == "images/0.bmp.png"
    assert outputs["0.png"] == "images/0.png.png"
    assert outputs["0.PNG.png"] == "images/0.PNG.png.png"
    assert len({output.lower() for output in outputs.values()}) == 12


def test_class_names_and_profile_show_in_the_report(purify, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(["dark", "light", *"cdefg", "attacked"]))
    assert purify("--class-names", tmp_path / "names.txt", "--profile", "paper").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "attacked" in page
    assert "paper" in page


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--classifier", "toy_model:nothing"], 2, "has no 'nothing'; it has: classify, logits"),
        (["--classifier", "toy_model"], 2, "package.module:attribute"),
        (["--classifier", "missing.onnx"], 1, "missing.onnx"),
        (["--set", "scores.label_weight=2"], 2, "scores.label_weight must be in [0, 1], got 2.0"),
        (["--set", "scores.label_weight=heavy"], 2, "scores.label_weight=heavy: expected a value of type float"),
        (["--set", "unknown=1"], 2, "unknown setting 'unknown'; known: "),
        (["--set", "label_weight"], 2, "expected NAME=VALUE"),
        (["--pixel-range", "0-255"], 2, "--pixel-range must be two numbers with two dots between"),
        (["--pixel-range", "0..255"], 2, "pixel_range: for model files"),
        (["--input-size", "axb"], 2, "--input-size must be one number"),
        (["--layout", "sideways"], 2, "sideways"),
        (["--mean", "a,b"], 2, "--mean must be numbers"),
        (["--mean", "1,2"], 2, "--mean must have one number or one for each of three channels"),
        (["--key-file", "missing"], 2, "cannot read the key from missing"),
        (["--profile", "best"], 2, "best"),
    ],
)
def test_wrong_options_are_one_clear_line(purify, options, status, message, tmp_path):
    result = purify(*options)
    assert result.exit_code == status
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    if "error: " in result.stderr:
        assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    assert not (tmp_path / "out/records.jsonl").exists()


def test_a_missing_source_is_one_clear_line(purify, tmp_path):
    result = purify(source=tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in purify(source=tmp_path / "empty").stderr


def test_an_empty_key_is_refused(purify, monkeypatch):
    monkeypatch.setenv("MASKRESTORE_KEY", "  ")
    result = purify()
    assert result.exit_code == 2
    assert "the key in MASKRESTORE_KEY is empty" in result.stderr


def test_errors_inside_the_program_are_not_hidden(purify, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("maskrestore.cli.purify.purify_folder", broken)
    assert isinstance(purify().exception, ZeroDivisionError)


def test_config_errors_have_status_two_wherever_they_come_from(purify, monkeypatch):
    def refuse(*arguments, **options):
        raise ConfigError("over\nlines")

    monkeypatch.setattr("maskrestore.cli.purify.purify_folder", refuse)
    result = purify()
    assert result.exit_code == 2
    assert "error: over lines" in result.stderr


SLOW = """
import signal, sys, time
import toy_model
from maskrestore.cli import purify_job
from maskrestore.cli.app import main
sys.path.insert(0, {here!r})
from conftest import GreyRestorer

purify_job.load_restorer = lambda name, **options: GreyRestorer()
quick = toy_model.classify

def slow(images):
    time.sleep(0.05)  # the signal must arrive before the last image, however busy the machine is
    return quick(images)

toy_model.classify = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_real_signal_leaves_whole_records(sent, model, photos, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(here=str(Path(__file__).parent)))
    out = tmp_path / "out"
    source = str(Path(maskrestore.__file__).parents[1])
    process = subprocess.Popen(
        [
            *(sys.executable, "slow.py", "purify", str(photos), "--classifier", "toy_model:classify"),
            *("--out", str(out), "--batch", "1"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": source},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    log = out / "records.jsonl"
    while (
        not (log.exists() and log.stat().st_size) and time.monotonic() < deadline
    ):  # it is opened before it is written
        time.sleep(0.01)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    done = records(tmp_path)
    assert 0 < len(done) < 10
    assert all((out / record["output"]).exists() for record in done.values())


def test_large_images_are_worked_on_in_smaller_batches(purify, monkeypatch, tmp_path):
    sizes = []
    from maskrestore.defense.pipeline import Pipeline

    submit = Pipeline.submit
    monkeypatch.setattr(
        Pipeline,
        "submit",
        lambda self, ids, images: sizes.append(len(ids)) or submit(self, ids, images),
    )
    monkeypatch.setattr("maskrestore.defense.bdmae.ON_CPU", Limits(images=64, pixels=3 * 16 * 16, masked_pixels=1))
    assert purify().exit_code == 0
    assert len(records(tmp_path)) == 10
    assert max(sizes) == 3


def test_a_half_finished_folder_is_completed(purify, model, photos, tmp_path):
    purify()
    path = tmp_path / "out/records.jsonl"
    complete, asked = path.read_text().splitlines(keepends=True), model.asked
    path.write_text("".join(complete[6:1:-1]))  # as an interrupted run leaves it, in some order
    expected = sum(json.loads(line)["queries"] for line in complete[:2] + complete[7:])
    result = purify()
    assert result.exit_code == 0, result.output
    assert "10 images purified (5 of them by an earlier run)" in result.stdout
    assert model.asked - asked == expected
    again = path.read_text().splitlines(keepends=True)
    assert again[2:7] == complete[2:7]
    assert [json.loads(line) | {"seconds": 0} for line in again] == [
        json.loads(line) | {"seconds": 0} for line in complete
    ]


@pytest.mark.parametrize("source", ["images", "images/sub", "."])
def test_results_are_not_written_over_the_source(purify, tmp_path, source):
    folder = tmp_path / "out" / source
    folder.mkdir(parents=True)
    write_png(folder / "0.png", torch.zeros(3, 16, 16))
    before = sorted((tmp_path / "out").rglob("*"))
    result = purify(source=folder)
    assert result.exit_code == 2
    assert "results would be written over the images in" in result.stderr
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_the_report_shows_a_bounded_number_of_images(purify, photos, tmp_path):
    assert purify("--report-images", 2).exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<article") == 2
    assert "2 of 10 images are shown here" in page
    changed = [name for name, record in records(tmp_path).items() if record["label"] != record["original_label"]]
    assert len(changed) >= 2
    assert all(f"Purified of {name}" in page for name in changed[:2])
    (photos / changed[0]).unlink()
    purify("--report-images", 10)
    assert changed[0] not in (tmp_path / "out/report.html").read_text()


def test_what_was_left_out_is_said_and_strict_makes_it_a_failure(purify, photos, tmp_path):
    (photos / "notes.txt").write_text("no picture")
    (photos / ".hidden.png").write_bytes(b"")
    (tmp_path / "far").mkdir()
    write_png(tmp_path / "far/x.png", torch.zeros(3, 16, 16))
    (tmp_path / "far/x.png").rename(tmp_path / "far/download")
    (photos / "far").symlink_to(tmp_path / "far")
    result = purify()
    assert result.exit_code == 0, result.output
    assert "11 images purified" in result.stdout
    assert "left out: 1 hidden file: .hidden.png\nleft out: 1 not a picture: notes.txt\n" in result.stderr
    assert records(tmp_path)["far/download"]["error"] is None
    assert records(tmp_path)["notes.txt"]["left_out"] == "not a picture"
    page = (tmp_path / "out/report.html").read_text()
    assert "Not looked at: 2" in page
    assert purify("--strict").exit_code == 1
    (photos / "notes.txt").unlink()
    (photos / ".hidden.png").unlink()
    assert purify("--strict").exit_code == 0


def test_names_cannot_write_to_the_terminal(purify, photos):
    (photos / "\x1b[31mred\n.txt").write_text("no picture")
    (photos / "\x1b[31mred\n.png").write_text("no picture")
    result = purify()
    assert "left out: 1 not a picture: \\x1b[31mred\\n.txt" in result.stderr
    assert "failed: \\x1b[31mred\\n.png: ImageFileError" in result.stderr
    assert "\x1b[31mred" not in result.stderr


@pytest.mark.parametrize("option", ["--class-names", "--key-file"])
def test_files_of_options_are_read_before_networks_are_loaded(purify, model, monkeypatch, tmp_path, option):
    def load(*values, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr("maskrestore.cli.purify_job.load_restorer", load)
    result = purify(option, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert model.asked == 0


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_asked(purify, model, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = purify()
    assert result.exit_code == 2
    assert "it is a file, expected a folder or nothing; nothing was asked yet; choose another folder" in result.stderr
    assert model.asked == 0


def test_too_few_class_names_are_said(purify, tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfred\r\ngreen\r\n")
    result = purify("--class-names", tmp_path / "names.txt")
    assert result.exit_code == 0
    assert "names.txt names 2 classes, but the classifier answered 7 (from 0 on)" in result.stderr
    page = (tmp_path / "out/report.html").read_text()
    assert "class 7 (no name)" in page
    assert '"label">red' in page


def test_a_single_query_does_not_claim_to_know_labels_before(purify, tmp_path):
    assert purify("--max-queries", 1).exit_code == 0
    assert {record["original_label"] for record in records(tmp_path).values()} == {None}
    page = (tmp_path / "out/report.html").read_text()
    assert "Labels changed" not in page
    assert page.count("<article") == 10
    assert "(10 of them by an earlier run)" in purify("--max-queries", 1).stdout


def test_an_unknown_choice_is_a_plain_sentence(purify):
    result = purify("--profile", "quick")
    assert result.exit_code == 2
    assert "'quick' is not one of 'default'" in result.stderr
    assert "Value error" not in result.stderr


def test_a_parquet_file_is_a_source(purify, invoke, photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": cells, "mask": cells}), tmp_path / "a.parquet")
    result = purify(source=tmp_path / "a.parquet")
    assert result.exit_code == 2
    assert "several columns of images: image, mask; choose one with --image-column" in " ".join(result.stderr.split())
    result = purify("--image-column", "image", source=tmp_path / "a.parquet")
    assert result.exit_code == 0, result.stderr
    assert f"{len(files)} images purified" in result.stdout
    names = [json.loads(line)["file"] for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    assert names == [f"a.parquet/{row:09}" for row in range(len(files))]
    assert "Purified images of a.parquet" in (tmp_path / "out/report.html").read_text()


def test_a_source_behind_a_url_is_told_from_a_path(purify):
    result = purify(source="memory://nowhere")
    assert result.exit_code == 1
    assert "memory://nowhere: expected images, found nothing" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "2"], "need the workers of --ray"),
        (["--format", "parquet"], "need the workers of --ray"),
        (["--ray", "--answer-cache"], "leave --answer-cache out"),
    ],
)
def test_options_of_clusters_that_make_no_sense_are_refused(purify, options, words):
    result = purify(*options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
