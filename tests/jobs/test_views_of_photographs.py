"""Photographs are purified at the size at which the classifier sees them, and written in full size if wanted."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fakes import colour_labels
from maskrestore.defense.profiles import PROFILES
from maskrestore.imaging.codec import read_image, write_png
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.views import View
from maskrestore.jobs import FolderJob, purify_folder, write_folder_report
from maskrestore.types import Purification, StreamResult

VIEW = View(height=32, width=32)


class WhiteMiddle:
    """Restores the four tokens in the middle in white, whatever the image."""

    config, key, restorer = PROFILES["default"], 0, None

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def purify_stream(self, items, classifier, *, budget, asking):
        for item in items:
            images, hidden = item.image[None].clone(), torch.zeros(1, 8, 8, dtype=torch.bool)
            self.sizes.append(tuple(item.image.shape[1:]))
            before = classifier(images)
            hidden[:, 3:5, 3:5] = True
            images[tokens_to_pixels(hidden, *item.image.shape[1:]).expand_as(images)] = 1
            budget.spend(2)
            yield StreamResult(
                id=item.id,
                result=Purification(
                    images=images,
                    labels=classifier(images),
                    original_labels=before,
                    queries=torch.tensor([2]),
                    hidden=hidden,
                    scores=torch.zeros(1, 8, 8),
                ),
            )


@pytest.fixture
def job(tmp_path: Path) -> FolderJob:
    (tmp_path / "photos").mkdir()
    for name, size in {"wide": (64, 160), "tall": (96, 64), "small": (20, 20)}.items():
        write_png(tmp_path / f"photos/{name}.png", torch.rand(3, *size) * 0.5)
    return FolderJob(
        source=tmp_path / "photos",
        out=tmp_path / "out",
        defense=WhiteMiddle(),
        classifier=colour_labels,
        classifier_id="colours",
        view=VIEW,
    )


def records(job: FolderJob) -> dict[str, dict]:
    return {one["file"]: one for one in map(json.loads, (job.out / "records.jsonl").read_text().splitlines())}


def test_the_view_is_purified_and_the_report_compares_with_it(job):
    assert purify_folder(job).purified == 3
    assert sorted(job.defense.sizes) == [(20, 20), (32, 32), (32, 32)]
    assert read_image(job.out / "images/wide.png").shape == (3, 32, 32)
    assert not (job.out / "full").exists()
    page = write_folder_report(job).read_text()
    assert page.count("data:image/png") >= 3


def test_another_view_is_another_setting(job):
    purify_folder(job)
    squashed = dataclasses.replace(job, view=View(height=32, width=32, convention="squash"), defense=WhiteMiddle())
    assert purify_folder(squashed).reused == 0
    assert len({job.config_digest, squashed.config_digest, dataclasses.replace(job, view=None).config_digest}) == 3


def test_the_whole_picture_gets_what_was_restored(job):
    wanted = dataclasses.replace(job, full_size=True)
    purify_folder(wanted)
    for name, record in records(wanted).items():
        before, after = read_image(job.source / name), read_image(job.out / record["full_size"])
        changed = (before != after).any(dim=0)
        assert before.shape == after.shape
        side = min(before.shape[1:])
        assert int(changed.sum()) == pytest.approx((side / 4) ** 2, rel=0.3)
        middle = after[:, after.shape[1] // 2, after.shape[2] // 2]
        assert float(middle.min()) > 0.9


def test_full_size_pictures_are_made_of_earlier_results_without_asking(job):
    purify_folder(job)
    wanted = dataclasses.replace(job, full_size=True)
    summary = purify_folder(wanted)
    assert (summary.queries, summary.purified, summary.reused) == (0, 3, 3)
    assert {Path(one["full_size"]).name for one in records(wanted).values()} == {"wide.png", "tall.png", "small.png"}
    (job.out / "full/tall.png").unlink()
    assert purify_folder(wanted).queries == 0
    assert (job.out / "full/tall.png").exists()


def test_a_result_stays_if_its_full_size_cannot_be_written(job, monkeypatch):
    purify_folder(job)
    wanted = dataclasses.replace(job, full_size=True)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(
            "maskrestore.jobs.saving.write_png", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
        )
        summary = purify_folder(wanted)
    assert (summary.queries, summary.purified, summary.failed) == (0, 3, 0)
    assert summary.notes == {"could not be written in full size": 3}
    assert purify_folder(wanted).notes == {}
    assert all("full_size" in one for one in records(wanted).values())
