import dataclasses
import json

import pytest
import torch

from maskrestore.errors import ConfigError
from maskrestore.lab.measure.defenses import NoDefense
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.measure.run import choose_images, evaluate, triggered_images
from maskrestore.statistics import Rate
from toy_evaluation import (
    CornerAttack,
    EraseCorner,
    backdoored,
    make_dataset,
    make_defense,
    make_victim,
)


def run(defense, attack=None, **options):
    options = {"clean_count": 20, "triggered_count": 15, "chunk_size": 8} | options
    return evaluate(make_dataset(), attack, make_victim(), make_defense(defense), **options)


def test_metrics_before_and_after():
    record = run(EraseCorner(), CornerAttack())
    assert record.before.ca == record.after.ca == Rate(20, 20)
    assert record.before.asr == Rate(15, 15)
    assert record.before.ba == Rate(0, 15)
    assert record.after.asr == Rate(0, 15)
    assert record.after.ba == Rate(15, 15)
    assert record.kept == 20
    assert (record.cost.queries_mean, record.cost.queries_max) == (2.0, 2)
    assert record.cost.restored_mean == pytest.approx(1 / 16)


def test_the_median_of_queries_is_that_of_clean_images():
    class Suspicious(EraseCorner):
        def purify(self, images, classifier):
            result = super().purify(images, classifier)
            first = images[:, 0, 0, 0] * 25.5  # the label
            cost = torch.where(images[:, 0, -1, -1] > 0.99, 47, 2 + 3 * first.round().long())
            return dataclasses.replace(result, queries=cost)

    record = run(Suspicious(), CornerAttack(), clean_count=80)  # twenty of each label: 2, 5, 8 and 11 queries
    assert record.cost.queries_median_clean == 6.5
    assert record.cost.queries_max == 47


def test_without_attack_there_is_only_clean_accuracy():
    record = run(NoDefense())
    assert record.after.ca == Rate(20, 20)
    assert record.after.ba is None
    assert record.after.asr is None
    assert record.attack is None
    assert record.triggered_images == 0
    assert record.cost.queries_max == 1
    assert record.cost.restored_mean is None


def test_every_defense_and_attack_gets_the_same_clean_images():
    class OtherAttack(CornerAttack):
        name = "corner:grey"

        def apply(self, images):
            return images * 0.5

    first, second = EraseCorner(), EraseCorner()
    run(first, CornerAttack())
    run(second, OtherAttack(), chunk_size=5)
    assert torch.equal(torch.cat(first.seen)[:20], torch.cat(second.seen)[:20])
    other_seed = EraseCorner()
    run(other_seed, CornerAttack(), seed=1)
    assert not torch.equal(torch.cat(first.seen)[:20], torch.cat(other_seed.seen)[:20])


def test_triggered_images_are_eligible_and_distinct():
    labels = make_dataset().labels
    eligible = CornerAttack().eligible(labels)
    index = choose_images(labels, 60, 0, eligible)
    assert len(set(index.tolist())) == 60
    assert bool(eligible[index].all())
    # A smaller choice is the beginning of a larger one.
    assert torch.equal(index[:10], choose_images(labels, 10, 0, eligible))
    with pytest.raises(ConfigError, match="between 1 and 60"):
        choose_images(labels, 61, 0, eligible)


def test_triggered_images_have_the_precision_of_files():
    class Faint(CornerAttack):
        def apply(self, images):
            return images * 0.9 + 0.123

    pixels = triggered_images(make_dataset(5).images, Faint()) * 255
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    whole = run(EraseCorner(), CornerAttack(), out=cell_records(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(EraseCorner(fail_after=4), CornerAttack(), out=cell_records(tmp_path / "parts"))
    (partial,) = (tmp_path / "parts").glob("*.partial.jsonl")
    with partial.open("a") as file:
        file.write('{"part": "triggered", "indi')  # a line that was being written
    rest = EraseCorner()
    resumed = run(rest, CornerAttack(), out=cell_records(tmp_path / "parts"))
    assert sum(len(images) for images in rest.seen) == 35 - 28  # 4 chunks: 8 + 8 + 4 clean, 8 triggered
    assert (resumed.before, resumed.after, resumed.kept) == (whole.before, whole.after, whole.kept)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["cells.jsonl"]


def test_other_settings_do_not_continue_a_partial_run(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(EraseCorner(fail_after=2), CornerAttack(), out=cell_records(tmp_path))
    fresh = EraseCorner()
    run(fresh, CornerAttack(), out=cell_records(tmp_path), seed=3)
    assert sum(len(images) for images in fresh.seen) == 35


def test_a_partial_file_of_another_revision_is_not_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(EraseCorner(fail_after=2), CornerAttack(), out=cell_records(tmp_path))
    (partial,) = tmp_path.glob("*.partial.jsonl")
    head, *lines = partial.read_text().splitlines()
    partial.write_text("\n".join([json.dumps({"key": json.loads(head)["key"] + "x"}), *lines]) + "\n")
    fresh = EraseCorner()
    run(fresh, CornerAttack(), out=cell_records(tmp_path))
    assert sum(len(images) for images in fresh.seen) == 35


def test_a_defense_that_raises_leaves_its_predictions(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(EraseCorner(fail_after=1, failure=RuntimeError("power cut")), out=cell_records(tmp_path))
    rest = EraseCorner()
    run(rest, out=cell_records(tmp_path))
    assert sum(len(images) for images in rest.seen) == 12


def test_record_is_written_and_can_be_kept(tmp_path):
    record = run(EraseCorner(), CornerAttack(), out=cell_records(tmp_path))
    assert record.name.startswith("toy_corner-white_erase_")
    assert cell_records(tmp_path).read() == {record.name: record}
    idle = EraseCorner()
    assert run(idle, CornerAttack(), out=cell_records(tmp_path), keep_existing=True) == record
    assert idle.seen == []


def test_the_defense_is_blind():
    """It is called with the images and the classifier only, and the classifier answers labels only."""

    class Nosy(EraseCorner):
        def purify(self, *args, **kwargs):
            assert len(args) == 2
            assert not kwargs
            assert args[1] is backdoored
            return super().purify(*args)

    run(Nosy(), CornerAttack())


def test_progress_counts_up_and_includes_resumed_images(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(EraseCorner(fail_after=2), CornerAttack(), out=cell_records(tmp_path))
    states = []
    run(EraseCorner(), CornerAttack(), out=cell_records(tmp_path), progress=states.append)
    assert [state.done for state in states] == [16, 20, 28, 35]
    assert {state.total for state in states} == {35}
    assert states[-1].queries == 2.0
