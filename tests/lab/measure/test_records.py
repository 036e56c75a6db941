import dataclasses
import json

import pytest
import torch

from maskrestore.errors import DataError
from maskrestore.lab.measure.records import read_record, write_record
from maskrestore.lab.measure.run import evaluate
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.files import write_text_atomically
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim


@pytest.fixture(scope="module")
def record():
    return evaluate(
        make_dataset(),
        CornerAttack(),
        make_victim(),
        make_defense(EraseCorner(), radius=1, words=["a", "b"]),
        clean_count=8,
        triggered_count=8,
    )


def test_what_is_written_is_what_is_read(record, tmp_path):
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json") == record


def test_record_says_where_it_was_made(record):
    environment = record.environment
    assert environment.threads == torch.get_num_threads()
    assert environment.libraries["torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
    assert environment.device
    assert environment == current_environment()


def test_record_holds_no_labels_and_no_key(record):
    text = json.dumps(dataclasses.asdict(record))
    assert record.defense.key_fingerprint == "0123456789abcdef"
    assert '"labels"' not in text
    assert '"key"' not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "found record version 99, expected"),
        ({"seed": "zero"}, "record.seed should be int, got 'zero'"),
        ({"kept": True}, "record.kept should be int, got True"),
        ({"cost": None}, "record.cost should be an object"),
        ({"before": {"ca": {"successes": 9, "trials": 8}, "ba": None, "asr": None}}, "got 9 of 8"),
        ({"surprise": 1}, "unknown entries .'surprise'"),
    ],
)
def test_a_wrong_record_is_refused_with_the_reason(record, tmp_path, change, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(dataclasses.asdict(record) | change))
    with pytest.raises(DataError, match=message):
        read_record(path)


def test_missing_entries_and_broken_files_are_refused(record, tmp_path):
    path = tmp_path / "r.json"
    values = dataclasses.asdict(record)
    del values["victim"]["digest"]
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"record.victim lacks \['digest'\]"):
        read_record(path)
    for text in ("", "[1]", '{"version": 1'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"r\.json"):
            read_record(path)


def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
