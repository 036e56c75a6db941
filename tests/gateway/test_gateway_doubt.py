"""What clients get for pictures whose answer is in doubt: in each protocol, in decisions, counts and replays."""

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from faulty_server import Server, output, says
from gateway_clients import CLEAN, MARKED, TROJAN, WITHIN, png
from gateway_runner import Running
from maskrestore.classifiers import as_classifier, load_classifier
from maskrestore.classifiers.open_inference_messages import BINARY_HEADER, read_message, write_message
from maskrestore.gateway.config import ModelConfig, checked_config
from maskrestore.gateway.interface import interface_of
from maskrestore.gateway.records import Decision
from maskrestore.types import Purification

Start = Callable[..., Running]
INFER = "/v2/models/colours/infer"
MIXED = torch.stack([MARKED[0], CLEAN[0], MARKED[1], CLEAN[1]])
PLAIN = TROJAN(MIXED).tolist()
PURIFIED = TROJAN(torch.stack([CLEAN[0], CLEAN[0], CLEAN[1], CLEAN[1]])).tolist()
ABSTAIN = {"on_doubt": "abstain"}
ORIGINAL = {"on_doubt": "original"}


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that stay are in doubt: those of clean pictures."""
    monkeypatch.setattr(Purification, "doubtful", lambda self, limit: self.labels == self.original_labels)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that change are in doubt: those of pictures with a trigger."""
    monkeypatch.setattr(Purification, "doubtful", lambda self, limit: self.labels != self.original_labels)


@pytest.fixture
def backdoor(server: Server) -> Server:
    """The upstream answers 6 where its patch is, with scores."""
    server.answer = lambda values: output("FP32", [1, 8], np.eye(8)[_labels(values)].ravel().tolist())
    return server


@pytest.fixture
def labelling(server: Server) -> Server:
    """The same with numbers."""
    server.metadata["outputs"][0].update(datatype="INT64", shape=[-1])
    server.answer = lambda values: output("INT64", [1], _labels(values))
    return server


@pytest.fixture
def naming(server: Server) -> Server:
    """The same with names."""
    server.metadata["outputs"][0].update(datatype="BYTES", shape=[-1])
    server.answer = lambda values: output("BYTES", [1], [f"colour {_labels(values)[0]}"])
    return server


def _labels(values: np.ndarray) -> list[int]:
    return TROJAN(torch.from_numpy(values.copy())).tolist()


def ask(running: Running, images: torch.Tensor = MIXED) -> httpx.Response:
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    return running.client.post(INFER, json={"inputs": [entry]})


def decisions(running: Running, query: str = "") -> list[dict[str, Any]]:
    """The oldest first."""
    return running.client.get(f"/v1/decisions?{query}").json()["decisions"][::-1]  # type: ignore[no-any-return]


@pytest.mark.usefixtures("stays", "labelling")
def test_some_pictures_of_a_request_are_not_answered(gateway: Start) -> None:
    running = gateway(ABSTAIN)
    assert running.client.get("/v2/models/colours").json()["parameters"]["on_doubt"] == "abstain"
    found = ask(running)
    assert found.status_code == 200, found.text
    assert found.json()["outputs"][0]["data"] == [PURIFIED[0], -1, PURIFIED[2], -1]
    told = found.json()["parameters"]
    assert (told["maskrestore_doubtful"], told["maskrestore_abstained"]) == ("1 3", "1 3")
    assert (found.headers["Maskrestore-Doubtful"], found.headers["Maskrestore-Abstained"]) == ("1 3", "1 3")
    made = decisions(running)
    assert [one["label"] for one in made] == [PURIFIED[0], None, PURIFIED[2], None]
    assert [one["purified_label"] for one in made] == PURIFIED
    assert [one["original_label"] for one in made] == PLAIN
    assert [one["abstained"] for one in made] == [one["doubtful"] for one in made] == [False, True, False, True]
    assert [one["changed"] for one in made] == [True, False, True, False]
    assert {(one["status"], one["error"], one["shielded"]) for one in made} == {(200, None, True)}
    assert all(0 <= one["suspicion"] <= 1 for one in made)


@pytest.mark.usefixtures("stays", "labelling")
def test_minus_one_in_bytes(gateway: Start) -> None:
    content, headers = write_message(
        {"parameters": {"binary_data_output": True}}, "inputs", [("image", "FP32", MIXED.numpy(), True)]
    )
    found = gateway(ABSTAIN).client.post(INFER, content=content, headers=headers)
    message, tensors = read_message(found.content, found.headers[BINARY_HEADER], "outputs")
    assert tensors["scores"].values().tolist() == [PURIFIED[0], -1, PURIFIED[2], -1]
    assert message["parameters"]["maskrestore_abstained"] == "1 3"


@pytest.mark.usefixtures("changes", "naming")
def test_no_name(gateway: Start) -> None:
    running = gateway(ABSTAIN)
    found = ask(running).json()
    assert found["outputs"][0]["data"] == ["", f"colour {PURIFIED[1]}", "", f"colour {PURIFIED[3]}"]
    assert found["parameters"]["maskrestore_abstained"] == "0 2"
    first, second, *_ = decisions(running)
    assert (first["label_name"], first["purified_name"]) == (None, f"colour {PURIFIED[0]}")
    assert second["label_name"] == second["purified_name"] == f"colour {PURIFIED[1]}"


@pytest.mark.usefixtures("stays", "backdoor")
@pytest.mark.parametrize("scores", ["one-hot", "upstream"])
def test_scores_cannot_say_that_there_is_no_answer(gateway: Start, server: Server, scores: str) -> None:
    running = gateway({**ABSTAIN, "scores": scores})
    assert ask(running, MARKED).status_code == 200, "nothing is in doubt"
    before = server.asked
    found = ask(running, CLEAN[:1])
    assert found.status_code == 422
    assert "pictures in doubt, counted from 0: 0" in found.json()["error"]
    assert "outputs" not in found.json()
    (*_, made) = decisions(running)
    assert (made["status"], made["abstained"], made["label"]) == (422, True, None)
    assert found.headers["Maskrestore-Decision"] == made["id"]
    assert made["queries"] == server.asked - before, "the model is not asked for scores that nobody gets"
    mixed = ask(running)
    assert mixed.status_code == 422
    assert "counted from 0: 1, 3" in mixed.json()["error"]
    assert len(mixed.headers["Maskrestore-Decision"].split()) == 4
    as_labels = gateway({**ABSTAIN, "scores": "labels"})
    assert ask(as_labels).json()["outputs"][0]["data"] == [PURIFIED[0], -1, PURIFIED[2], -1]


@pytest.mark.usefixtures("stays", "backdoor")
def test_an_image_file_that_is_not_answered(gateway: Start, backdoor: Server) -> None:
    running = gateway({**ABSTAIN, "scores": "upstream"})
    before = backdoor.asked
    found = running.client.post("/v1/purify?png=true&stages=true", content=png(CLEAN[0]))
    assert found.status_code == 200
    made = found.json()["decision"]
    assert (made["label"], made["label_name"], made["abstained"], made["doubtful"]) == (None, None, True, True)
    assert (made["status"], made["error"], made["queries"]) == (200, None, backdoor.asked - before)
    assert Image.open(io.BytesIO(base64.b64decode(found.json()["png"].partition(",")[2]))).size == (16, 16)
    assert found.json()["stages"]
    marked = running.client.post("/v1/purify", content=png(MARKED[0])).json()["decision"]
    assert (marked["label"], marked["abstained"], marked["doubtful"]) == (PURIFIED[0], False, False)


@pytest.mark.usefixtures("changes")
def test_the_original_label_and_the_models_own_scores_of_the_picture_as_it_came(
    gateway: Start, backdoor: Server
) -> None:
    found = ask(gateway(ORIGINAL)).json()
    assert np.array(found["outputs"][0]["data"]).reshape(4, 8).argmax(axis=1).tolist() == PLAIN
    assert found["parameters"]["maskrestore_doubtful"] == "0 2"
    assert "maskrestore_abstained" not in found["parameters"]

    def answer(values: np.ndarray) -> dict[str, Any]:
        return output("FP32", [1, 8], (np.eye(8)[_labels(values)] + values.mean()).ravel().tolist())

    backdoor.answer = answer
    running = gateway({**ORIGINAL, "scores": "upstream"})
    scores = np.array(ask(running).json()["outputs"][0]["data"]).reshape(4, 8)
    assert scores.argmax(axis=1).tolist() == PLAIN
    assert np.allclose(scores.min(axis=1), MIXED.mean(dim=(1, 2, 3))), "of the pictures as they came"
    made = decisions(running)
    assert [one["label"] for one in made] == PLAIN
    assert [one["purified_label"] for one in made] == PURIFIED
    assert [one["changed"] for one in made] == [True, False, True, False]
    assert not any(one["abstained"] for one in made)


@pytest.mark.usefixtures("backdoor")
def test_the_limit_says_what_is_in_doubt_and_the_default_answers_all_the_same(gateway: Start) -> None:
    for limit, expected in ((0.0, "0 1 2 3"), (1.0, None)):
        running = gateway({"doubt_limit": limit})
        found = ask(running)
        assert np.array(found.json()["outputs"][0]["data"]).reshape(4, 8).argmax(axis=1).tolist() == PURIFIED
        assert found.json()["parameters"].get("maskrestore_doubtful") == expected
        assert found.headers.get("Maskrestore-Doubtful") == expected
        assert len(decisions(running, "doubtful=true")) == (4 if expected else 0)
        assert len(decisions(running, "doubtful=false")) == (0 if expected else 4)


@pytest.mark.usefixtures("stays", "backdoor")
@pytest.mark.parametrize(("settings", "answer"), [({}, "purified"), (ABSTAIN, "none"), (ORIGINAL, "purified")])
def test_they_are_counted(gateway: Start, place: dict[str, Any], settings: dict[str, Any], answer: str) -> None:
    running = gateway({**settings, "scores": "labels"}, decisions=place)
    ask(running)
    (bucket,) = running.client.get("/v1/statistics").json()["buckets"]
    assert (bucket["decisions"], bucket["doubtful"], bucket["changed"], bucket["errors"]) == (4, 2, 2, 0)
    counts = {
        sample.labels["answer" if family.name == "maskrestore_doubtful" else "outcome"]: sample.value
        for family in text_string_to_metric_families(running.client.get("/metrics").text)
        for sample in family.samples
        if sample.name in ("maskrestore_doubtful_total", "maskrestore_pictures_total")
    }
    others = {"abstained": 2} if answer == "none" else {"unchanged": 2}
    assert counts == {answer: 2, "changed": 2, **others}
    assert [one["place"] for one in decisions(running, "doubtful=true")] == [1, 3]


@pytest.mark.usefixtures("changes", "backdoor")
def test_original_labels_are_counted_as_such(gateway: Start) -> None:
    running = gateway(ORIGINAL)
    ask(running)
    assert 'maskrestore_doubtful_total{answer="original",model="colours",tenant="everyone"} 2.0' in (
        running.client.get("/metrics").text
    )


@pytest.mark.usefixtures("stays", "backdoor")
def test_a_replay_answers_as_the_settings_say_now(gateway: Start, place: dict[str, Any]) -> None:
    running = gateway(ABSTAIN, decisions=place)
    made = running.client.post("/v1/purify", content=png(CLEAN[0])).json()["decision"]
    address = f"/v1/decisions/{made['id']}/replay"
    again = running.client.post(address, content=png(CLEAN[0])).json()
    assert (again["same"], again["changed"]) == (True, {})
    assert again["replayed"]["abstained"] is True
    answering = gateway(decisions=place).client.post(address, content=png(CLEAN[0])).json()
    assert answering["differences"] == {"label": [None, PURIFIED[1]]}
    assert set(answering["changed"]) == {"config_digest"}


@pytest.mark.usefixtures("backdoor")
def test_what_fails_open_is_in_no_doubt(gateway: Start, backdoor: Server) -> None:
    running = gateway({**ABSTAIN, "doubt_limit": 0.0, "on_failure": {"upstream": "fail-open"}})
    backdoor.faults = [says(500, b""), None]
    found = ask(running, CLEAN[:1])
    assert found.status_code == 200, found.text
    assert found.headers["Maskrestore-Shielded"] == "false"
    assert "Maskrestore-Doubtful" not in found.headers
    (made,) = decisions(running)
    assert (made["doubtful"], made["abstained"], made["purified_label"]) == (None, False, None)
    assert made["label"] == PURIFIED[1]


def test_which_outputs_can_say_that_a_picture_is_not_answered(server: Server) -> None:
    def can(datatype: str, shape: list[int], names: list[str] | None = None, **settings: Any) -> bool:
        server.metadata["outputs"][0].update(datatype=datatype, shape=shape)
        http = {"threshold": settings["threshold"]} if "threshold" in settings else {}
        classifier = load_classifier(server.address, **http)
        config = ModelConfig(classifier=server.address, **settings)
        return interface_of("m", classifier, config).can_abstain(names)

    assert can("INT64", [-1])
    assert can("INT8", [-1, 1])
    assert not can("UINT8", [-1]), "it would be 255"
    assert not can("BOOL", [-1])
    assert not can("FP32", [-1, 1], threshold=0.5), "it would be below the threshold"
    assert can("BYTES", [-1])
    assert can("BYTES", [-1], ["a", "b"])
    assert not can("BYTES", [-1], ["a", ""]), "a class has no name"
    assert not can("FP32", [-1, 8])
    assert can("FP32", [-1, 8], scores="labels")
    assert not can("FP32", [-1, 8], scores="upstream")
    assert not can("INT64", [-1], scores="upstream")
    function = interface_of("m", as_classifier(TROJAN), ModelConfig(**WITHIN, scores="labels"))
    assert function.can_abstain(None)
    assert function.encode([3, -1], None).tolist() == [3, -1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_doubt": "ask"}, "models.m.on_doubt: Input should be 'answer', 'original' or 'abstain'"),
        ({"doubt_limit": 1.5}, "models.m.doubt_limit: Input should be less than or equal to 1"),
        ({"doubt_limit": float("nan")}, "models.m.doubt_limit: "),
        ({"on_doubt": "original", "max_queries": 1}, "the file: models.m: the only query is spent"),
        ({"on_doubt": "original", "settings": {"restoration.single_query": True}}, "models.m: "),
    ],
)
def test_settings_that_cannot_be_are_said_at_the_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked_config({"models": {"m": {**WITHIN, **settings}}}, "the file")


def test_with_a_single_query_nothing_is_in_doubt(gateway: Start) -> None:
    running = gateway({**WITHIN, **ABSTAIN, "scores": "labels", "doubt_limit": 0.0, "max_queries": 1})
    made = running.client.post("/v1/purify", content=png(CLEAN[0])).json()["decision"]
    assert made["label"] == made["purified_label"]
    assert made["suspicion"] is None
    assert (made["doubtful"], made["abstained"], made["original_label"], made["changed"]) == (None, False, None, None)


def test_decisions_that_were_kept_earlier_were_answered_with_the_purified_label() -> None:
    common = {
        "id": "1", "time": "2026-01-01T00:00:00+00:00", "model": "m", "tenant": "t", "request": "r", "place": 0,
        "content": "c", "channels": 3, "height": 8, "width": 8, "classifier": "c", "key_fingerprint": "k",
        "config_digest": "d", "version": "0", "label": 3, "label_name": "stop",
    }  # fmt: skip
    one = Decision.model_validate({**common, "shielded": True})
    assert (one.purified_label, one.purified_name, one.doubtful, one.abstained) == (3, "stop", None, False)
    assert Decision.model_validate({**common, "shielded": False}).purified_label is None
