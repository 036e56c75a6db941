import dataclasses
import json
import multiprocessing
import os

import pytest

from maskrestore.errors import DataError
from maskrestore.lab.measure.record_files import RecordFile, cell_records, read_records, record_name
from maskrestore.lab.measure.records import Record
from maskrestore.lab.measure.run import evaluate
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def record():
    counts = {"clean_count": 8, "triggered_count": 8}
    return evaluate(make_dataset(), CornerAttack(), make_victim(), make_defense(EraseCorner()), **counts, name="b")


@pytest.fixture
def file(tmp_path):
    return RecordFile(tmp_path / "folder" / "cells.jsonl", Record)


def named(record, *names, **changes):
    return [dataclasses.replace(record, name=name, **changes) for name in names]


def test_what_is_appended_is_found_by_its_name(record, file):
    assert file.read() == {}
    assert file.get("b") is None
    file.append(*named(record, "b", "a"))
    assert file.get("b") == record
    assert list(file.read()) == ["a", "b"]
    assert not file.is_compact()


def test_a_later_line_replaces_an_earlier_one(record, file):
    file.append(*named(record, "b", "a"))
    file.append(*named(record, "a", seed=7))
    assert file.get("a").seed == 7
    assert len(file.path.read_text().splitlines()) == 3
    before = file.read()
    file.compact()
    assert file.is_compact()
    assert file.read() == before
    assert [json.loads(line)["name"] for line in file.path.read_text().splitlines()] == ["a", "b"]


def test_a_record_is_removed_by_its_name(record, file):
    file.remove("a")
    file.append(*named(record, "b", "a"))
    file.remove("b")
    assert list(file.read()) == ["a"]
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_torn_line_is_passed_over_and_repaired(record, file):
    file.append(*named(record, "a"))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + whole[:100])  # the process died, or the disk was full
    assert list(file.read()) == ["a"]
    file.append(*named(record, "b"))
    assert list(file.read()) == ["a", "b"]
    file.path.write_bytes(whole[:50])
    assert file.read() == {}
    file.append(*named(record, "a"))
    assert file.path.read_bytes() == whole


def test_a_write_that_the_system_cuts_short_leaves_no_trace(record, file, monkeypatch):
    file.append(*named(record, "a"))
    whole, write = file.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(OSError, match="is the disk full"):
        file.append(*named(record, "b"))
    assert file.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting"),
        ("[]", "line 2: found record version None, expected"),
        ('{"version": 99}', "line 2: found record version 99, expected"),
        (("seed", "zero"), "line 2: record.seed should be int, got 'zero'"),
        (("surprise", 1), r"line 2: record lacks \[\] and has unknown entries \['surprise'\]"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(record, file, line, message):
    file.append(record)
    if isinstance(line, tuple):
        line = json.dumps(dataclasses.asdict(record) | {line[0]: line[1]})
    with file.path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=rf"cells\.jsonl, {message}"):
        file.read()
    with pytest.raises(DataError, match=rf"cells\.jsonl, {message}"):
        file.compact()


def test_a_record_that_does_not_fit_its_schema_is_not_written(record, file):
    with pytest.raises(DataError, match=r"'a' is not valid: record\.seed should be int"):
        file.append(*named(record, "a", seed="zero"))
    assert not file.path.exists()


def append_some(file, record, worker):
    for number in range(25):
        file.append(*named(record, f"{worker}-{number:02}", seed=worker))
        if number % 10 == worker:
            file.compact()


def test_processes_append_and_sort_at_once_and_nothing_is_lost(record, file):
    workers = [FORK.Process(target=append_some, args=(file, record, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    found = file.read()
    assert list(found) == [f"{worker}-{number:02}" for worker in range(4) for number in range(25)]
    assert all(one.seed == int(name[0]) for name, one in found.items())
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_path_is_a_file_or_the_folder_of_one(record, tmp_path):
    cell_records(tmp_path).append(record)
    assert read_records(tmp_path) == read_records(tmp_path / "cells.jsonl") == [record]
    for missing in (tmp_path / "missing", tmp_path / "missing.jsonl"):
        with pytest.raises(DataError, match=r"missing.*jsonl contains no records; make some with"):
            read_records(missing)


def test_names_are_words_and_a_digest():
    assert record_name("toy", "corner:white", "erase[a=(1, 2)]", digest="0123456789") == (
        "toy_corner-white_erase-a-1-2_01234567"
    )
