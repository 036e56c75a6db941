"""The program itself: ``maskrestore serve`` as a process with a model in it, and its signals."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from fakes import colour_labels, plain_images
from gateway_program import CONFIG, program
from maskrestore import BDMAE
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.decisions import DecisionStore, Filters
from maskrestore.gateway.pictures import content_of

IMAGES = plain_images(24, size=32)


def kept(folder: Path) -> list[Any]:
    store = DecisionStore(DecisionsConfig(path=folder / "decisions.sqlite"))
    try:
        return store.page(Filters(), before=None, limit=1000)
    finally:
        store.close()


def test_answers_reloading_and_a_graceful_end(tmp_path: Path) -> None:
    with program(tmp_path, CONFIG) as running:
        assert running.process.stdout is not None
        told = running.process.stdout.readline()
        assert told == f"colours: {running.address}/v2/models/colours\n", "the port that 0 has become"
        found = running.ask(IMAGES[:4])
        assert found.status_code == 200, found.text
        expected = BDMAE("mae-tiny-32", "fast", key="a secret").purify(IMAGES[:4], colour_labels)
        (scores,) = found.json()["outputs"]
        assert torch.tensor(scores["data"]).reshape(4, 8).argmax(dim=1).tolist() == expected.labels.tolist()

        more = CONFIG.replace("[models.colours]", '[models.more]\nclassifier = "toy_colours:colours"\n[models.colours]')
        (tmp_path / "gateway.toml").write_text(more)
        running.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while running.ask(IMAGES[:1], "more").status_code == 404 and time.monotonic() < end:
            time.sleep(0.05)
        assert running.ask(IMAGES[:1], "more").json()["outputs"][0]["datatype"] == "INT64"

        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(running.ask, IMAGES[[place]]) for place in range(8, 20)]
            while not any(one.done() for one in asked):
                time.sleep(0.005)
            running.process.send_signal(signal.SIGTERM)
            answers = [one.exception() or one.result() for one in asked]
        assert running.process.wait(30) == 0
    # What was accepted is answered; who came later was not connected.
    good = [one for one in answers if isinstance(one, httpx.Response)]
    assert good
    assert all(one.status_code in (200, 503) for one in good)
    assert all(isinstance(one, httpx.Response | httpx.TransportError) for one in answers)
    by_id = {one.id: one for one in kept(tmp_path)}
    told = [one.headers["Maskrestore-Decision"] for one in good if one.status_code == 200]
    pictures = {content_of(one) for one in IMAGES[8:20]}
    assert {one.id for one in by_id.values() if one.content in pictures} == set(told), "each decision was answered"
    requests = [line for line in running.lines() if line["message"] == "request"]
    assert {"time", "level", "request", "route", "status", "seconds"} <= requests[0].keys()
    assert "a secret" not in running.log.read_text()


def test_kill_9_during_load_and_a_new_start(tmp_path: Path) -> None:
    with program(tmp_path, CONFIG) as running, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(running.ask, IMAGES[[place]]) for place in range(len(IMAGES))]
        while sum(one.done() for one in asked) < 4:
            time.sleep(0.005)
        running.process.kill()
        answers = [one.exception() or one.result() for one in asked]
    good = [one for one in answers if isinstance(one, httpx.Response)]
    assert 4 <= len(good) < len(IMAGES), "some were answered, some were not"
    assert all(one.status_code == 200 for one in good)
    for one, image in zip(answers, IMAGES, strict=True):
        if isinstance(one, httpx.Response):
            scores = torch.tensor(one.json()["outputs"][0]["data"])
            assert int(scores.argmax()) == int(colour_labels(image[None]))
    told = {one.headers["Maskrestore-Decision"] for one in good}
    assert told <= {one.id for one in kept(tmp_path)}
    with program(tmp_path, CONFIG) as running:
        found = running.ask(IMAGES[:1])
        assert found.status_code == 200
        assert found.headers["Maskrestore-Decision"] > max(told)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --upstream, --classifier and --config"),
        (["--upstream", "a.onnx"], "--upstream must be an address"),
        (["--classifier", "a.onnx", "--tls-key", "a"], "both --tls-certificate and --tls-key"),
        (["--classifier", "a.onnx", "--host", "0.0.0.0"], "without keys the gateway listens on the loopback only"),
        (["--config", "none.toml"], "cannot read none.toml"),
        (
            ["--classifier", "a.onnx", "--on-doubt", "original", "--max-queries", "1"],
            "command line: models.a: the only query is spent on the restored image",
        ),
        (["--classifier", "a.onnx", "--on-doubt", "ask"], "'ask' is not one of 'answer', 'original', 'abstain'"),
        (["--classifier", "a.onnx", "--doubt-limit", "2"], "'--doubt-limit': Input should be less than or equal to 1"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], words: str) -> None:
    from typer.testing import CliRunner

    from maskrestore.cli.app import app

    result = CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "200", "MASKRESTORE_KEY": "a secret"})
    assert result.exit_code == 2
    assert words in result.stderr


def test_names_of_models_come_from_their_addresses_and_files() -> None:
    from maskrestore.cli.serve import _name_of

    names = {
        "http://models:8000/v2/models/signs": "signs",
        "http://models:8000/v2/models/signs/versions/2": "signs",
        "models/stop signs.onnx": "stop-signs",
        "package.models:signs": "signs",
        "https://host/classify": "classify",
    }
    assert {spec: _name_of(spec) for spec in names} == names
