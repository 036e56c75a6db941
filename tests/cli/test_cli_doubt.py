"""``maskrestore purify --on-doubt``."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("grey_restorer")


@pytest.fixture
def purify(invoke, model, photos, tmp_path):
    def run(*options: object):
        return invoke(*("purify", photos, "--classifier", "toy_model:classify", "--out", tmp_path / "out", *options))

    return run


def records(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]


def test_answers_in_doubt_are_counted_and_another_policy_asks_nothing(purify, model, tmp_path):
    result = purify("--on-doubt", "abstain", "--doubt-limit", 0)
    assert result.exit_code == 0, result.output
    cautious = records(tmp_path)
    doubtful = [record["file"] for record in cautious if record["doubtful"]]
    assert doubtful
    assert [record["file"] for record in cautious if record["label"] is None] == doubtful
    count = len(doubtful)
    changed = sum(record["purified_label"] != record["original_label"] for record in cautious)
    assert f"{count} answers in doubt ({count} not answered), " in result.stdout
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("in doubt: not answered") == count
    assert "<dt>on_doubt</dt><dd>abstain</dd>" in page
    asked = model.asked

    result = purify("--on-doubt", "original", "--doubt-limit", 0)
    told = f"10 of them by an earlier run), {changed} labels changed, {count} answers in doubt, 0 queries"
    assert told in result.stdout
    assert f"note: {count} images: answered again, as --on-doubt and --doubt-limit now say" in result.stderr
    assert "answered again" not in purify("--on-doubt", "original", "--doubt-limit", 0).stderr
    assert all(record["label"] == record["original_label"] for record in records(tmp_path) if record["doubtful"])

    result = purify("--doubt-limit", 1)
    assert "0 answers in doubt, 0 queries" in result.stdout
    assert model.asked == asked
    sure = records(tmp_path)
    assert all(record["label"] == record["purified_label"] for record in sure)
    assert [record["suspicion"] for record in sure] == [record["suspicion"] for record in cautious]


def test_results_of_an_earlier_version_are_said_to_have_no_suspicion(purify, model, tmp_path):
    purify()
    new = ("suspicion", "doubtful", "purified_label")
    old = [{name: value for name, value in record.items() if name not in new} for record in records(tmp_path)]
    (tmp_path / "out/records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    result = purify("--on-doubt", "abstain")
    assert "in doubt" not in result.stdout
    assert "note: 10 images: suspicion not known, so never in doubt: results of an earlier version" in result.stderr
    assert records(tmp_path) == old


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--on-doubt", "refuse"), "'refuse' is not one of 'answer',"),
        (("--doubt-limit", 1.5), "doubt_limit must be in [0, 1], got 1.5"),
        (("--on-doubt", "original", "--max-queries", 1), "the only query is spent on the restored image"),
    ],
)
def test_wrong_policies_are_refused_before_anything_is_asked(purify, model, tmp_path, options, message):
    result = purify(*options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert model.asked == 0
    assert not (tmp_path / "out").exists()
