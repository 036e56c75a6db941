import dataclasses
import json

import pytest

from maskrestore.lab.measure.detection import DetectorUnderTest, detect, detection_records
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.measure.records import write_record
from maskrestore.lab.measure.run import evaluate
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim
from toy_resources import RedCorner

COUNTS = {"clean_count": 8, "triggered_count": 8}


@pytest.fixture(scope="module")
def record():
    return evaluate(make_dataset(), CornerAttack(), make_victim(), make_defense(EraseCorner()), **COUNTS, name="b")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_records_of_several_files_become_one_sorted_file(invoke, record, folder):
    cell_records(folder / "one.jsonl").append(record, dataclasses.replace(record, name="a"))
    write_record(folder / "single.json", dataclasses.replace(record, name="a", seed=7))
    result = invoke("records", "add", "all.jsonl", "one.jsonl", "single.json")
    assert result.exit_code == 0, result.output
    assert "added 3 records to all.jsonl" in result.stderr
    found = cell_records(folder / "all.jsonl")
    assert {name: one.seed for name, one in found.read().items()} == {"a": 7, "b": 0}
    assert found.is_compact()


def test_kinds_of_records_are_not_mixed(invoke, record, folder):
    detector = DetectorUnderTest(detector=RedCorner(), name="red", config={}, key_fingerprint="0")
    detect(make_dataset(), CornerAttack(), make_victim(), detector, **COUNTS, out=detection_records(folder))
    cell_records(folder).append(record)
    result = invoke("records", "add", "cells.jsonl", "detections.jsonl")
    assert result.exit_code == 1
    assert "records of several kinds: DetectionRecord, Record" in result.stderr
    assert invoke("records", "check", "cells.jsonl", "detections.jsonl").stdout.splitlines() == [
        "cells.jsonl: 1 valid records (Record)",
        "detections.jsonl: 1 valid records (DetectionRecord)",
    ]


def test_a_file_is_checked_and_sorted(invoke, record, folder):
    file = cell_records(folder)
    file.append(record, dataclasses.replace(record, name="a"))
    assert "2 valid records (Record), not sorted" in invoke("records", "check", "cells.jsonl").stdout
    assert invoke("records", "sort", "cells.jsonl").exit_code == 0
    assert "not sorted" not in invoke("records", "check", "cells.jsonl").stdout
    with file.path.open("a") as stream:
        stream.write(json.dumps(dataclasses.asdict(record) | {"kept": None}) + "\n")
    result = invoke("records", "check", "cells.jsonl")
    assert result.exit_code == 1
    assert "cells.jsonl, line 3: record.kept should be int, got None" in result.stderr


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_what_is_no_record_is_refused(invoke, folder, text):
    (folder / "some.json").write_text(text)
    result = invoke("records", "add", "all.jsonl", "some.json")
    assert result.exit_code == 1
    assert "some.json is not a valid record" in result.stderr
    assert not (folder / "all.jsonl").exists()
