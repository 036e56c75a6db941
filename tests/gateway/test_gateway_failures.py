"""An upstream that is down, slow, cut off or flapping, clients that go away, a full disk: no answer is invented."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch

from fakes import MeanRestorer, colour_labels, plain_images
from faulty_server import Server, cut_off, drips, hangs_up, says, slow, waits_for_the_end
from gateway_runner import Running, running_gateway
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.models import ModelSlot

Start = Callable[..., Running]
INFER = "/v2/models/colours/infer"
IMAGE = plain_images(1)
LABEL = int(colour_labels(IMAGE))


def question(images: torch.Tensor = IMAGE, **more: Any) -> dict[str, Any]:
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    return {"inputs": [entry], **more}


def ask(running: Running, images: torch.Tensor = IMAGE, **headers: str) -> httpx.Response:
    return running.client.post(INFER, json=question(images), headers=headers)


def labels(answer: httpx.Response) -> list[int]:
    (scores,) = answer.json()["outputs"]
    found: list[int] = np.array(scores["data"]).reshape(scores["shape"]).argmax(axis=1).tolist()
    return found


def decisions(running: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.client.get("/v1/decisions").json()["decisions"]
    return found


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (says(500, b'{"error": "out of memory"}'), "out of memory"),
        (says(503, b"", Retry_After="7"), "503"),
        (cut_off, "cut off"),
        (hangs_up, "no answer"),
        (drips, "longer than 0.3 s"),
        (slow(1.0), "no answer"),
    ],
)
def test_a_failed_question_is_an_error_and_the_next_picture_is_answered(
    server: Server, gateway: Start, fault: Any, words: str
) -> None:
    running = gateway({"timeout": 0.3})
    server.faults = [None, fault, None]
    found = ask(running)
    assert found.status_code == 503
    assert found.json()["error"] in ("the model failed at this picture", "the model cannot be reached or is busy")
    assert ask(running).status_code == 200
    good, bad = decisions(running)
    assert words in bad["error"]
    assert (bad["label"], bad["status"], bad["shielded"]) == (None, 503, False)
    assert (good["label"], good["error"]) == (LABEL, None)
    assert running.client.get("/v1/decisions?errors=true").json()["decisions"] == [bad]


def test_a_time_to_wait_is_handed_on(server: Server, gateway: Start) -> None:
    running = gateway()
    server.faults = [says(429, b"", Retry_After="7")]
    assert ask(running).headers["Retry-After"] == "7"


def test_questions_of_a_flapping_upstream_are_asked_again(server: Server, gateway: Start) -> None:
    running = gateway({"patience": 5.0})
    server.faults = [says(503, b"", Retry_After="0"), None, hangs_up, None]
    found = ask(running)
    assert (found.status_code, labels(found)) == (200, [LABEL])
    assert running.gateway.slots["colours"].model is not None
    assert running.gateway.slots["colours"].model.retries == 2


def test_fail_open_answers_with_the_plain_label_and_says_so(server: Server, gateway: Start) -> None:
    running = gateway({"on_failure": {"upstream": "fail-open"}})
    server.faults = [None, says(500), None]
    found = ask(running)
    assert (found.status_code, labels(found)) == (200, [LABEL])
    assert found.headers["Maskrestore-Shielded"] == "false"
    assert found.json()["parameters"]["maskrestore_shielded"] is False
    (decision,) = running.client.get("/v1/decisions?unshielded=true").json()["decisions"]
    assert (decision["label"], decision["original_label"], decision["changed"]) == (LABEL, None, None)
    assert "500" in decision["error"]
    server.faults = [says(500)]
    assert ask(running).status_code == 503, "there is no plain label either"


def test_scores_of_the_upstream_fail_open_too(server: Server, gateway: Start) -> None:
    running = gateway({"scores": "upstream", "on_failure": {"upstream": "fail-open"}})
    server.faults = [None, says(500), None]
    found = ask(running)
    assert (found.status_code, labels(found)) == (200, [LABEL])
    assert found.headers["Maskrestore-Shielded"] == "false"


def test_the_question_for_the_upstreams_scores_is_asked_again_like_others(server: Server, gateway: Start) -> None:
    running = gateway({"scores": "upstream", "patience": 5.0})
    assert ask(running).status_code == 200
    (decision,) = decisions(running)
    server.faults = [None] * (decision["queries"] - 1) + [says(503, b"", Retry_After="0"), None]
    assert (ask(running).status_code, labels(ask(running))) == (200, [LABEL])
    assert running.gateway.slots["colours"].model is not None
    assert running.gateway.slots["colours"].model.retries == 1


class Broken(MeanRestorer):
    def restore(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no memory")


def test_a_defense_that_fails_is_an_error_or_fails_open(gateway: Start) -> None:
    closed = ask(gateway(restorer=Broken()))
    assert closed.status_code == 503
    assert "memory" not in closed.text
    opened = ask(gateway({"on_failure": {"defense": "fail-open"}}, restorer=Broken()))
    assert (opened.status_code, labels(opened)) == (200, [LABEL])


def test_a_picture_whose_answers_are_late_holds_no_other(server: Server, gateway: Start) -> None:
    late, others = plain_images(1, size=24), plain_images(6, seed=2)
    answer = server.answer

    def slowly(values: np.ndarray) -> dict[str, Any]:
        if values.shape[-1] == 24:
            time.sleep(0.4)
        return answer(values)

    server.answer = slowly
    running = gateway({"timeout": 5.0})
    with ThreadPoolExecutor(1) as pool:
        slow_one = pool.submit(ask, running, late)
        until(lambda: server.asked > 0)
        started = time.monotonic()
        found = [ask(running, one[None]) for one in others]
        took = time.monotonic() - started
        assert not slow_one.done(), "it has several rounds of 0.4 s"
        assert [labels(one) for one in found] == [[label] for label in colour_labels(others).tolist()]
        assert labels(slow_one.result(20)) == colour_labels(late).tolist()
    slow_record = next(one for one in decisions(running) if one["height"] == 24)
    fast = [one["seconds"] for one in decisions(running) if one["height"] == 16]
    assert max(fast) < slow_record["seconds"]
    assert took < 6 * slow_record["seconds"]


def test_the_time_of_a_request_is_a_limit(server: Server, gateway: Start) -> None:
    running = gateway({"timeout": 1.0, "on_failure": {}})
    server.faults = [slow(0.5)]
    started = time.monotonic()
    found = ask(running, **{"Maskrestore-Timeout": "0.1"})
    assert found.status_code == 504
    assert time.monotonic() - started < 0.45
    idle = lambda: running.client.get("/v1/status").json()["models"][0]["working"] == 0  # noqa: E731
    until(idle)
    by_parameter = running.client.post(INFER, json=question(parameters={"timeout": 100_000}))
    assert by_parameter.status_code == 504, "microseconds, as Triton's clients send them"
    assert [one["status"] for one in decisions(running)] == [504, 504]
    until(idle)


@pytest.mark.parametrize("model", [{}, {"on_failure": {"deadline": "fail-open"}}, {"scores": "upstream"}])
def test_no_question_outlives_its_request(server: Server, gateway: Start, model: dict[str, Any]) -> None:
    running = gateway({"timeout": 5.0, **model})
    if model.get("scores") == "upstream":
        assert ask(running).status_code == 200
        server.faults = [None] * (server.asked - 1) + [waits_for_the_end]  # the question for the scores
    else:
        server.faults = [waits_for_the_end]
    started, asked = time.monotonic(), server.asked
    assert ask(running, **{"Maskrestore-Timeout": "0.6"}).status_code == 504
    sent = server.asked - asked
    until(lambda: len(server.hung_up) == (sent if not model.get("scores") else 1), 2.0)
    assert max(server.hung_up) - started < 0.9
    time.sleep(0.2)
    assert server.asked == asked + sent
    server.faults = []
    assert ask(running).status_code == 200


def test_questions_are_asked_again_within_the_time_of_their_request_only(server: Server, gateway: Start) -> None:
    running = gateway({"patience": 60.0, "breaker_failures": 1000})
    server.faults = [says(503, b"", Retry_After="0")]
    assert ask(running, **{"Maskrestore-Timeout": "0.5"}).status_code == 503, "before a wait that would be too long"
    asked = server.asked
    assert asked > 1
    time.sleep(0.5)
    assert server.asked == asked


def test_impatient_clients_do_not_open_the_breaker(server: Server, gateway: Start) -> None:
    running = gateway({"breaker_failures": 2})
    server.faults = [slow(0.2)]
    for _ in range(3):
        assert ask(running, **{"Maskrestore-Timeout": "0.1"}).status_code == 504
        until(lambda: not running.client.get("/v1/status").json()["models"][0]["working"])
    server.faults = []
    assert ask(running).status_code == 200


def test_a_client_that_has_gone_asks_nothing_more(server: Server, gateway: Start) -> None:
    running = gateway({"concurrency": 2})
    image = plain_images(1)
    server.faults = [None, slow(0.3)]
    body = json.dumps(question(image)).encode()
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(lambda: server.asked == 2)
    until(lambda: not running.client.get("/v1/status").json()["models"][0]["working"])
    until(lambda: not server.busy)
    time.sleep(0.1)
    assert server.asked <= 3, "the round has more questions"


def test_fail_open_at_the_end_of_the_time(server: Server, gateway: Start) -> None:
    running = gateway({"timeout": 1.0, "on_failure": {"deadline": "fail-open"}})
    server.faults = [slow(1.0), None]
    found = ask(running, **{"Maskrestore-Timeout": "0.8"})
    assert (found.status_code, found.headers["Maskrestore-Shielded"]) == (200, "false")


def test_a_client_that_goes_away_frees_its_place(server: Server, gateway: Start) -> None:
    running = gateway()
    server.faults = [slow(0.3), None]
    body = json.dumps(question()).encode()
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(lambda: server.asked == 1)
    until(lambda: bool(decisions(running)))
    (decision,) = decisions(running)
    assert "the client went away" in decision["error"]
    until(lambda: running.client.get("/v1/status").json()["models"][0]["working"] == 0)
    assert server.asked == 1


def test_a_breaker_leaves_the_upstream_alone_and_tries_again(server: Server, gateway: Start) -> None:
    running = gateway({"breaker_failures": 2, "breaker_seconds": 0.4})
    server.faults = [says(503)]
    for _ in range(2):
        assert ask(running).status_code == 503
    asked = server.asked
    found = ask(running)
    assert (found.status_code, server.asked) == (503, asked)
    assert int(found.headers["Retry-After"]) >= 1
    assert "left alone" in decisions(running)[0]["error"]
    server.faults = []
    time.sleep(0.4)
    assert ask(running).status_code == 200


def test_readiness_follows_the_upstream(server: Server, gateway: Start) -> None:
    metadata, server.metadata = server.metadata, None
    running = gateway()
    assert running.client.get("/v2/health/live").status_code == 200
    assert running.client.get("/v2/health/ready").status_code == 503
    assert ask(running).status_code == 503, "it is not known yet what the model takes"
    server.metadata = metadata
    slot = running.gateway.slots["colours"]
    slot.refresh()
    assert running.client.get("/v2/health/ready").status_code == 200
    assert ask(running).status_code == 200
    server.metadata = None
    slot.refresh()
    assert running.client.get("/v2/models/colours/ready").status_code == 503
    assert "404" in running.client.get("/v1/status").json()["models"][0]["reason"]


def test_a_readiness_check_that_hangs_holds_no_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrestore.gateway.gateway._CHECK_SECONDS", 0.05)
    answered, refresh = threading.Event(), ModelSlot.refresh

    def hangs(slot: ModelSlot) -> None:
        assert slot.name != "late" or answered.wait(20)
        refresh(slot)

    one = {"classifier": server.address, "patience": 0.0}
    config = GatewayConfig.model_validate({"models": {"colours": one, "late": one}})
    with running_gateway(config, MeanRestorer()) as running:
        slots = running.gateway.slots
        until(lambda: slots["late"].reason is None and slots["colours"].reason is None)
        monkeypatch.setattr(ModelSlot, "refresh", hangs)
        until(lambda: slots["late"].reason == "its server has not answered yet")
        server.metadata, metadata = None, server.metadata
        until(lambda: "404" in (slots["colours"].reason or ""))
        server.metadata = metadata
        until(lambda: slots["colours"].reason is None)
        assert slots["late"].reason is not None
        answered.set()
        until(lambda: slots["late"].reason is None)


def test_a_decision_that_cannot_be_kept_is_no_answer(gateway: Start, tmp_path: Any) -> None:
    running = gateway(decisions={"path": tmp_path / "d.sqlite"})
    assert ask(running).status_code == 200
    database = running.gateway.store._db
    ((pages,),) = database.rows("PRAGMA page_count")
    database.rows(f"PRAGMA max_page_count = {pages}")  # as on a full disk
    found = [ask(running) for _ in range(4)][-1]
    assert found.status_code == 503
    assert "cannot be kept" in found.json()["error"]
    answered = len(decisions(running))
    database.rows("PRAGMA max_page_count = 100000")
    assert ask(running).status_code == 200
    assert len(decisions(running)) == answered + 1


def test_a_full_queue_is_429_or_fails_open(server: Server, gateway: Start) -> None:
    limits = {"queue": 2, "pictures": 2}
    for policy, status in (("fail-closed", 429), ("fail-open", 200)):
        running = gateway({"places": 1, "on_failure": {"overload": policy}}, limits=limits)
        model = running.gateway.slots["colours"].model
        assert model is not None
        server.faults = [slow(0.4), None]
        far = time.monotonic() + 20
        first = model.scheduler.submit("everyone", [IMAGE[0]], far)
        until(lambda model=model: model.scheduler.working == 1)  # type: ignore[misc]
        waiting = model.scheduler.submit("everyone", [IMAGE[0]] * 2, far)
        found = ask(running)
        assert found.status_code == status, found.text
        assert ("Retry-After" in found.headers) == (status == 429)
        if status == 200:
            (decision,) = running.client.get("/v1/decisions?unshielded=true").json()["decisions"]
            assert decision["queries"] == 1, "the plain label was asked for"
        assert all(one.result(20) for one in (*first, *waiting))


def test_slow_bodies_and_half_requests(gateway: Start) -> None:
    running = gateway(limits={"body_timeout": 0.2})
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"no HTTP at all\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert ask(running).status_code == 200


def test_another_form_of_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="fail-closed"):
        GatewayConfig.model_validate({"models": {"a": {"classifier": "a.onnx", "on_failure": {"upstream": "open"}}}})
