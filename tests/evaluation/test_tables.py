import dataclasses

import pytest
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim

from maskrestore.errors import DataError
from maskrestore.evaluation.metrics import Metrics, Rate
from maskrestore.evaluation.records import write_record
from maskrestore.evaluation.run import evaluate
from maskrestore.evaluation.tables import accuracy_table, cost_table, markdown, read_records


@pytest.fixture(scope="module")
def base():
    return evaluate(
        make_dataset(),
        CornerAttack(),
        make_victim(),
        make_defense(EraseCorner()),
        clean_count=8,
        triggered_count=8,
    )


def variant(base, attack="corner:white", defense="erase", ca=100, asr=0, **changes):
    after = Metrics(ca=Rate(ca, 100), ba=Rate(90, 100), asr=Rate(asr, 100))
    if attack is None:
        after = dataclasses.replace(after, ba=None, asr=None)
    entry = dataclasses.replace(base.defense, name=defense)
    return dataclasses.replace(base, attack=attack, defense=entry, after=after, **changes)


def test_rows_are_attacks_and_columns_defenses(base):
    records = [
        variant(base, ca=98, asr=2),
        variant(base, defense="other", ca=90, asr=10),
        variant(base, attack="blended", ca=96, asr=4),
        variant(base, attack=None, ca=50, before=Metrics(ca=Rate(8, 8))),
    ]
    lines = accuracy_table(records).splitlines()[2:]
    assert lines[0] == "| attack | no defense | erase | other |"
    assert lines[2] == "| corner:white | 100.0 / 0.0 / 100.0 | 98.0 / 90.0 / 2.0 | 90.0 / 90.0 / 10.0 |"
    assert lines[3] == "| blended | 100.0 / 0.0 / 100.0 | 96.0 / 90.0 / 4.0 |  |"
    assert lines[4] == "| clean model | 100.0 / – / – | 50.0 / – / – |  |"
    assert lines[5].startswith("| **mean of attacks** | 100.0 / 0.0 / 100.0 | 97.0 / 90.0 / 3.0 |")
    assert lines[6] == "| **CA lost, mean of attacks** |  | 3.0 | 10.0 |"


def test_runs_of_several_seeds_are_averaged(base):
    records = [variant(base, ca=90, seed=0), variant(base, ca=94, seed=1)]
    assert "| corner:white | 100.0 / 0.0 / 100.0 | 92.0 / 90.0 / 0.0 |" in accuracy_table(records)


def test_different_settings_under_one_name_are_refused(base):
    changed = dataclasses.replace(base, defense=dataclasses.replace(base.defense, config={"a": 1}))
    with pytest.raises(DataError, match="differ in settings"):
        accuracy_table([base, changed])


def test_cost_names_the_processor(base):
    assert f"| erase | 2.0 | 2 | 6.2 % | {base.cost.images_per_second:.1f} |" in cost_table([base])
    assert base.environment.device in cost_table([base])


def test_a_folder_becomes_a_document(base, tmp_path):
    write_record(tmp_path / "a.json", base)
    write_record(tmp_path / "b.json", dataclasses.replace(base, dataset="more"))
    text = markdown(read_records(tmp_path))
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### toy",
        "### more",
        "### Cost",
    ]


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no \*.json record"):
        read_records(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        read_records(tmp_path / "missing")
