"""``maskrestore purify`` with a classifier behind an address."""

import json
from pathlib import Path

import pytest

from faulty_server import output, says, says_json
from maskrestore.cli import terminal

pytestmark = pytest.mark.usefixtures("grey_restorer")


@pytest.fixture
def purify(invoke, photos, tmp_path):
    def run(address: str, *options: object):
        return invoke("purify", photos, "--classifier", address, "--out", tmp_path / "out", *options)

    return run


def records(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]


def test_a_model_server_is_asked(purify, server, tmp_path):
    result = purify(server.address, "--timeout", 5, "--concurrency", 2)
    assert result.exit_code == 0, result.output
    assert len(records(tmp_path)) == 10
    assert server.asked == sum(record["queries"] for record in records(tmp_path))
    assert not (tmp_path / "out/answers.sqlite").exists()


def test_what_was_answered_is_not_asked_again(purify, server, tmp_path):
    server.faults = [*[None] * 60, says(500)]
    result = purify(server.address, "--concurrency", 1)
    assert result.exit_code == 1
    assert "5 times in a row, at last with ClassifierError: http://127.0.0.1" in result.stderr
    assert server.asked == 65
    server.faults = []
    result = purify(server.address)
    assert result.exit_code == 0, result.output
    assert "answers of an earlier run" in result.stdout
    assert server.asked - 5 == sum(record["queries"] for record in records(tmp_path))


def test_names_keep_their_numbers_and_are_shown(purify, server, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    server.faults = [says_json({"label": "cat"})]
    options = ("--body", "png", "--label", "label", "--header", "Authorization: Bearer $TOKEN")
    result = purify(f"{server.host}/classify", *options)
    assert result.exit_code == 0, result.output
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["cat"]
    assert {record["label"] for record in records(tmp_path)} == {0}
    assert "cat" in (tmp_path / "out/report.html").read_text()
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"s3cret" not in written
    server.faults = [says_json({"label": "dog"})]
    assert purify(f"{server.host}/classify", *options, "--again").exit_code == 0
    assert {record["label"] for record in records(tmp_path)} == {1}
    # Neither a new token nor another number of requests at a time is another classifier.
    monkeypatch.setenv("TOKEN", "another")
    assert "10 of them by an earlier run" in purify(f"{server.host}/classify", *options, "--concurrency", 2).stdout


def test_a_changing_mind_is_an_answer_like_another(purify, server, tmp_path):
    labels = iter(range(10**6))
    server.answer = lambda values: output("INT64", [1], [next(labels) % 3])
    server.metadata["outputs"] = [{"name": "scores", "datatype": "INT64", "shape": [-1]}]
    assert purify(server.address).exit_code == 0
    assert len(records(tmp_path)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--header", "no colon"), "--header must be a name and a value"),
        (("--header", "Authorization: $NOWHERE"), "needs the variable NOWHERE"),
        (("--micro-batch", 4), "one picture in a request"),
        (("--body", "png"), "--label"),
    ],
)
def test_wrong_options_are_refused(purify, server, options, message):
    result = purify(server.address, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not server.asked


def test_options_for_addresses_are_for_addresses(invoke, photos, model, tmp_path):
    result = invoke(
        "purify", photos, "--classifier", "toy_model:classify", "--out", tmp_path / "out", "--label", "predictions"
    )
    assert result.exit_code == 2
    assert "label: for classifiers behind an address" in " ".join(result.stderr.split())


def test_the_command_to_go_on_shows_no_secret(monkeypatch):
    words = ["maskrestore", "purify", "--header", "Key: s3cret", "--header=B: s3cret", "--header", "A: $TOKEN", "a b"]
    monkeypatch.setattr(terminal.sys, "argv", words)
    expected = "maskrestore purify --header 'Key: ...' '--header=B: ...' --header 'A: $TOKEN' 'a b'"
    assert terminal.command_line() == expected
    assert words[3] == "Key: s3cret"
