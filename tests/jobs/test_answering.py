"""What records answer in doubt: it follows from the record, so another policy asks nothing."""

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fakes import colour_labels
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense.config import RestorationConfig
from maskrestore.defense.profiles import PROFILES
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.imaging.codec import write_png
from maskrestore.jobs import FolderJob, purify_folder, write_folder_report
from maskrestore.jobs.answering import answered, answered_again
from maskrestore.jobs.result_files import load_purification
from maskrestore.types import Purification, StreamResult

KEPT = {"original_label": 3, "label": 3, "suspicion": 0.7, "error": None}
CHANGED = {"original_label": 4, "label": 3, "suspicion": 0.7, "error": None}


@pytest.mark.parametrize(
    ("record", "limit", "doubtful", "labels"),
    [
        (KEPT, 0.5, True, [3, 3, None]),
        (KEPT, 0.7, False, [3, 3, 3]),
        (CHANGED, 0.5, False, [3, 3, 3]),
        (CHANGED, 0.2, True, [3, 4, None]),
        (CHANGED, 0.3, False, [3, 3, 3]),  # 1 - 0.7 is a little above 0.3 in binary
        (KEPT | {"suspicion": None}, 0.0, False, [3, 3, 3]),
    ],
)
def test_each_policy_answers_what_is_in_doubt(record, limit, doubtful, labels):
    found = [answered(record, policy, limit) for policy in ("answer", "original", "abstain")]
    assert [one["label"] for one in found] == labels
    assert all((one["doubtful"], one["purified_label"]) == (doubtful, 3) for one in found)
    for before in found:
        assert [answered(before, policy, limit) for policy in ("answer", "original", "abstain")] == found


def test_with_a_single_query_the_label_counts_as_kept():
    record = {"original_label": None, "label": 3, "suspicion": 0.7}
    assert answered(record, "abstain", 0.5)["label"] is None
    assert answered(record, "abstain", 0.7)["label"] == 3


class RatingDefense:
    """Asks once, says that the label was 9, and suspects each image by its brightness."""

    config, key, restorer = PROFILES["default"], 0, None

    def purify_stream(self, items, classifier, *, budget, asking):
        for item in items:
            images = item.image[None]
            labels = classifier(images)
            budget.spend(1)
            result = Purification(
                images=images,
                labels=labels,
                original_labels=labels.new_tensor([9]),
                queries=torch.ones(1).long(),
                suspicion=images.mean(dim=(1, 2, 3)),
            )
            yield StreamResult(id=item.id, result=result)


@pytest.fixture
def job(tmp_path: Path) -> FolderJob:
    """Five grey images, from black to white: the dark ones changed their label without looking suspicious."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        write_png(tmp_path / f"photos/{number}.png", torch.full((3, 4, 4), number / 4))
    return FolderJob(
        source=tmp_path / "photos",
        out=tmp_path / "out",
        defense=RatingDefense(),
        classifier=CountingClassifier(colour_labels),
        classifier_id="colours",
        answer_cache=False,
    )


def written(job: FolderJob) -> list[dict]:
    """The records, without times."""
    lines = map(json.loads, (job.out / "records.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_records_hold_the_answer_and_what_it_was_made_of(job):
    summary = purify_folder(dataclasses.replace(job, on_doubt="abstain"))
    found = written(job)
    assert [record["suspicion"] for record in found] == [0.0, 0.251, 0.502, 0.749, 1.0]  # pixels have 8 bits
    assert [record["doubtful"] for record in found] == [True, True, False, False, False]
    assert [record["label"] for record in found] == [None, None, 7, 7, 7]
    assert [record["purified_label"] for record in found] == [0, 0, 7, 7, 7]
    assert [record["original_label"] for record in found] == [9] * 5
    assert (summary.purified, summary.changed, summary.doubtful, summary.abstained) == (5, 5, 2, 2)
    assert (summary.highest_label, summary.without_suspicion) == (9, 0)
    again = load_purification(job.out, found[0])
    assert (int(again.labels), float(again.suspicion)) == (0, 0.0)
    page = write_folder_report(dataclasses.replace(job, on_doubt="abstain")).read_text()
    assert page.count("in doubt: not answered") == 2
    assert ">abstain<" in page


def test_another_policy_asks_nothing_and_gives_the_records_of_a_run_of_its_own(job, tmp_path):
    assert purify_folder(dataclasses.replace(job, on_doubt="abstain")).answered_again == 0
    for options, other in (
        ({"on_doubt": "original"}, 2),
        ({"on_doubt": "abstain", "doubt_limit": 0.8}, 2),
        ({"on_doubt": "answer", "doubt_limit": 0.8}, 1),
    ):
        summary = purify_folder(dataclasses.replace(job, **options))
        assert (summary.reused, summary.queries, summary.answered_again) == (5, 0, other)
        alone = dataclasses.replace(job, out=tmp_path / "alone", again=True, **options)
        purify_folder(alone)
        assert written(job) == written(alone)
        with closing(alone.open_records()) as records:
            assert not list(answered_again(alone, records))


def test_records_of_earlier_versions_are_continued_and_shown(job, tmp_path):
    (job.source / "4.png").rename(tmp_path / "later")
    purify_folder(job)
    new = ("suspicion", "doubtful", "purified_label")
    old = [{name: value for name, value in record.items() if name not in new} for record in written(job)]
    (job.out / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    (tmp_path / "later").rename(job.source / "4.png")
    cautious = dataclasses.replace(job, on_doubt="abstain")
    summary = purify_folder(cautious)
    assert (summary.purified, summary.reused, summary.queries) == (5, 4, 1)
    assert (summary.changed, summary.doubtful, summary.without_suspicion) == (5, 0, 4)
    assert written(job)[:4] == old
    page = write_folder_report(cautious).read_text()
    assert page.count("<article") == 5
    assert page.count("<span>suspicion 1.00</span>") == page.count("<span>suspicion") == 1
    assert purify_folder(dataclasses.replace(cautious, again=True)).doubtful == 2


def test_what_was_paid_for_is_kept_with_its_suspicion_if_it_cannot_be_written(job):
    (job.out / "images/0.png").mkdir(parents=True)
    assert purify_folder(dataclasses.replace(job, on_doubt="abstain")).failed == 1
    failed = next(record for record in written(job) if record["error"])
    assert {name: failed[name] for name in ("label", "purified_label", "suspicion", "doubtful")} == {
        **{"label": None, "purified_label": 0},
        **{"suspicion": 0.0, "doubtful": True},
    }


def test_policies_that_make_no_sense_are_refused_at_once(job):
    with pytest.raises(UnknownNameError, match="abstain"):
        dataclasses.replace(job, on_doubt="refuse")
    with pytest.raises(ConfigError, match=r"doubt_limit must be in \[0, 1\], got 2"):
        dataclasses.replace(job, doubt_limit=2)
    with pytest.raises(ConfigError, match="takes a policy for answers in doubt by its name"):
        dataclasses.replace(job, on_doubt=lambda image, result: 0)
    single = RatingDefense()
    single.config = dataclasses.replace(
        PROFILES["default"], restoration=dataclasses.replace(PROFILES["default"].restoration, single_query=True)
    )
    assert isinstance(single.config.restoration, RestorationConfig)
    with pytest.raises(ConfigError, match="only query"):
        dataclasses.replace(job, defense=single, on_doubt="original")
