import json

import pytest

from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.sources import Found


def test_the_last_record_of_an_image_counts_and_others_are_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    lines = [{"file": name, "run": run, "error": None} for name, run in (("b.png", 1), ("gone.png", 1), ("b.png", 2))]
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
        + 'null\n[]\nnonsense\n{"file": 3}\n{"file": "a.png"}\n{"file": "b.png", "output": [1]}\n{"fi'
    )
    records = ImageRecords(path, map(Found, ("b.png", "a.png", "a.jpg")))
    assert len(records) == 3
    assert list(records.images()) == [("a.jpg", "a.jpg", {}), ("a.png", "a.png", {}), ("b.png", "b", lines[2])]
    assert list(records.records()) == [lines[2]]
    records.add({"file": "a.png", "error": None})
    assert records.record("a.png") == {"file": "a.png", "error": None}
    with pytest.raises(KeyError, match=r"no record of 'a\.jpg'"):
        records.record("a.jpg")
    records.compact()
    records.close()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [{"file": "a.png", "error": None}, lines[2], lines[1]]
    assert list(tmp_path.iterdir()) == [path]
