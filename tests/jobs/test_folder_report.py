import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fakes import MeanRestorer, PatchTriggerClassifier, plain_images
from maskrestore import BDMAE
from maskrestore.errors import ImageFileError
from maskrestore.imaging.codec import read_image, write_png
from maskrestore.jobs import FolderJob, purify_folder, write_folder_report
from maskrestore.jobs.result_files import load_purification, save_purification

NAMES = [f"c{index}" for index in range(9)] + ["attacked"]


@pytest.fixture
def job(tmp_path: Path) -> FolderJob:
    """Four images, two with the trigger, and a file that is no image."""
    classifier = PatchTriggerClassifier()
    images = plain_images(4)
    images[:2] = classifier.stamp(images[:2])
    (tmp_path / "in").mkdir()
    for index, image in enumerate(images):
        write_png(tmp_path / f"in/{index}.png", image)
    (tmp_path / "in/broken.png").write_bytes(b"nonsense")
    return FolderJob(
        source=tmp_path / "in",
        out=tmp_path / "out",
        defense=BDMAE(MeanRestorer(), key="secret"),
        classifier=classifier,
        classifier_id="patch, version 1",
    )


def test_a_report_is_written_from_records_alone(job):
    summary = purify_folder(job)
    assert (summary.purified, summary.failed, summary.complete) == (4, 1, False)
    assert summary.failures[0][0] == "broken.png"
    records = [json.loads(line) for line in (job.out / "records.jsonl").open()]
    assert summary.changed == sum(one["label"] != one["original_label"] for one in records if not one["error"]) == 2

    def refuse(images):
        raise AssertionError("the classifier must not be asked")

    silent = dataclasses.replace(job, classifier=refuse)
    page = write_folder_report(silent, class_names=NAMES, settings={"restorer": "mean colour"}).read_text()
    assert page.count("<article") == 4
    assert all(text in page for text in ("attacked", "broken.png", "patch, version 1", "mean colour", "hidden_ratio"))
    assert "secret" not in page
    (job.source / "1.png").unlink()
    assert write_folder_report(silent, max_detailed=2).read_text().count("<article") == 2


def test_results_of_another_classifier_are_not_in_the_report(job):
    purify_folder(job)
    other = dataclasses.replace(job, classifier_id="patch, version 2")
    page = write_folder_report(other).read_text()
    assert "<article" not in page
    assert "No image was processed" in page
    summary = purify_folder(dataclasses.replace(other, budget=other.defense.config.max_queries))
    assert summary.stopped is not None
    assert summary.reused == 0
    assert summary.purified + summary.other_settings + summary.failed == 5


def test_a_source_without_images_is_an_error(job):
    for path in job.source.iterdir():
        path.unlink()
    with pytest.raises(ImageFileError, match="no images in this folder"):
        write_folder_report(job)


def test_a_result_is_read_back_as_it_was_saved(tmp_path):
    images = (plain_images(1) * 255).round() / 255
    result = BDMAE(MeanRestorer()).purify(images, PatchTriggerClassifier())
    record = save_purification(tmp_path, "sub/a", result)
    assert (record["output"], record["maps"]) == ("images/sub/a.png", "maps/sub/a.npz")
    again = load_purification(tmp_path, record)
    assert torch.equal(again.images, read_image(tmp_path / record["output"])[None])
    assert (again.images - result.images).abs().max() <= 0.5 / 255 + 1e-6
    for name in ("labels", "original_labels", "queries", "hidden", "scores", "initial_label_scores"):
        assert torch.equal(getattr(again, name), getattr(result, name))


class ChoiceOfMeans:
    """Restorers of their own names for small and for larger pictures."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._small, self._large = MeanRestorer(grid=8), MeanRestorer(grid=4)
        self._small.name, self._large.name = "small", "large"

    def for_size(self, height: int, width: int) -> MeanRestorer:
        return self._small if height * width <= 32 * 32 else self._large


def test_records_and_report_say_which_restorer_an_image_got(job):
    write_png(job.source / "larger.png", torch.full((3, 48, 48), 0.5))
    chosen = dataclasses.replace(job, defense=BDMAE(ChoiceOfMeans(), key="secret"))
    purify_folder(chosen)
    records = {one["file"]: one for one in map(json.loads, (job.out / "records.jsonl").open())}
    assert {name: one.get("restorer") for name, one in records.items()} == {
        **{f"{index}.png": "small" for index in range(4)},
        "larger.png": "large",
        "broken.png": None,
    }
    assert "large: 1 image, small: 4 images" in write_folder_report(chosen).read_text()
