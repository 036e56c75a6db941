"""What several workers have in common, without the workers."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maskrestore.errors import ConfigError
from maskrestore.gateway import ids, server
from maskrestore.gateway.access import new_key
from maskrestore.gateway.board import Board, Report, merged
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.decisions import iso
from maskrestore.gateway.errors import OverloadedError, RefusedError
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.ledger import BudgetsInMemory, Ledger
from maskrestore.gateway.process import Listening
from maskrestore.gateway.records import Decision, ModelStatus
from maskrestore.gateway.shared import Common, join, offered
from maskrestore.gateway.worker import share_of
from maskrestore.runtime.digests import digest_of_key


def decision() -> Decision:
    return Decision(
        id=new_id(), time=iso(time.time()), model="m", tenant="t", request="r", place=0, content="c", channels=3,
        height=1, width=1, shielded=True, classifier="c", key_fingerprint="k", config_digest="d", version="0",
    )  # fmt: skip


def status(**values: object) -> ModelStatus:
    known = {"name": "m", "ready": True, "reason": None, "waiting": 0, "working": 0, "answers": "labels", "input": []}
    return ModelStatus.model_validate({**known, "classes": None, "profile": "fast", "max_queries": 47, **values})


def test_those_who_listen_get_what_is_new_and_whoever_is_too_late_the_last() -> None:
    board, made = Board(0), [decision() for _ in range(300)]
    board.add(made[:1], {})
    number, found = board.since(None, 5)
    assert found == []
    assert board.since(number, 0.01) == (number, [])
    board.add(made[1:3], {})
    board.add(made[3:4], {})
    number, found = board.since(number, 5)
    assert found == made[1:4]
    board.add(made[4:], {})
    assert board.since(number, 5) == (300, made[-256:])


def test_pictures_are_bounded() -> None:
    picture = np.zeros((1, 1, 3), np.uint8)
    board = Board(2)
    for name in "abc":
        board.add([], {name: {"before": picture}})
    assert board.pictured("abcd") == {"b", "c"}
    assert (dict(board.pictures("a")), set(board.pictures("c"))) == ({}, {"before"})


def test_a_model_is_as_ready_as_its_least_ready_worker() -> None:
    own = [status(waiting=1), status(name="other")]
    other = [status(ready=False, reason="down", waiting=2, working=3), status(name="old")]
    first, second = merged(own, [Report(worker=1, models=other)])
    assert (first.ready, first.reason, first.waiting, first.working) == (False, "down", 3, 3)
    assert second == own[1]
    assert merged(own, []) == own


def test_a_worker_that_has_ended_does_not_count() -> None:
    board = Board(0)
    one, two = Report(worker=1, models=[status(working=1)]), Report(worker=2, models=[status()])
    assert board.report(one) == []
    assert board.report(two) == [one]
    board.forget(1)
    assert board.report(two) == []


@pytest.fixture
def every_id() -> Iterator[None]:
    yield
    ids.take_every(1, 0)


@pytest.mark.usefixtures("plain_ids")
def test_ids_of_several_machines_differ_and_keep_their_order() -> None:
    before = new_id()
    ids.sign()
    made = [new_id() for _ in range(100)]
    assert made == sorted({*made})
    assert before < made[0]
    (end,) = {one[14:] for one in made}
    assert len(end) == 8
    ids.sign()
    assert new_id()[14:] == end, "a process has one end"


@pytest.mark.usefixtures("every_id")
def test_ids_of_workers_are_of_different_numbers() -> None:
    found = []
    for worker in (0, 1, 2):
        ids.take_every(3, worker)
        made = [int(new_id(), 16) for _ in range(100)]
        assert made == sorted(set(made))
        assert {one % 3 for one in made} == {worker}
        found.append(made[0])
    assert max(found) - time.time() * 1e6 < 1000, "it is the time"


def test_limits_are_divided_and_everything_else_stays() -> None:
    model = {"classifier": "http://host/v2/models/m", "concurrency": 5}
    config = GatewayConfig.model_validate(
        {"models": {"m": model}, "workers": 3, "limits": {"queue": 100, "pictures": 20, "connections": 10}}
    )
    share = share_of(config)
    limits = share.limits
    assert (limits.queue, limits.queue_pixels, limits.connections) == (34, -(-(2**24) // 3), 4)
    assert share.models["m"].concurrency == 1
    assert limits.pictures == 20
    back = share.model_copy(update={"limits": config.limits, "models": config.models})
    assert back == config
    assert share_of(config.model_copy(update={"workers": 10})).limits.queue == 20, "a request has to fit"


def test_an_error_crosses_to_another_process() -> None:
    for error in (RefusedError(429, "a text", retry_after=2.5), OverloadedError("a text", 2.5)):
        again = pickle.loads(pickle.dumps(error))
        assert (again.status, str(again), again.retry_after) == (429, "a text", 2.5)


def test_workers_use_one_ledger_and_one_board(tmp_path: Path) -> None:
    ledger, board = Ledger(BudgetsInMemory({"a": 10})), Board(1)
    with offered(Common(ledger, board), tmp_path):
        one = join(0, tmp_path)
        reserved = one.ledger.admit("a", 1, 40, rate=None, most=60)
        with pytest.raises(RefusedError, match="10 of 60 queries") as caught:
            join(1, tmp_path).ledger.admit("a", 1, 40, rate=None, most=60)
        assert caught.value.retry_after
        one.ledger.settle(reserved, 5)
        ledger.admit("a", 1, 45, rate=None, most=60)
        made = decision()
        one.board.add([made], {made.id: {"before": np.ones((1, 1, 3), np.uint8)}})
        assert board.since(0, 1) == one.board.since(0, 1) == (1, [made])
        assert one.board.pictured(["x", made.id]) == {made.id}
        assert np.array_equal(one.board.pictures(made.id)["before"], np.ones((1, 1, 3)))
        report = Report(worker=0, models=[status()])
        assert one.board.report(report) == []
        assert board.report(Report(worker=1, models=[])) == [report]


def test_a_new_configuration_without_keys_does_not_open_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    without = GatewayConfig.model_validate({"models": {"m": {"classifier": "m.onnx"}}})
    keys = {
        "tenants": {"t": {"key_hash": digest_of_key(new_key())}},
        "operator": {"key_hash": digest_of_key(new_key())},
    }
    with_keys = GatewayConfig.model_validate({**without.model_dump(), **keys})
    found = []
    monkeypatch.setattr(server, "_serve_alone", lambda *_, read_config, **__: found.append(read_config))
    monkeypatch.setattr(server, "log_as_json", lambda: None)
    for host in ("0.0.0.0", "127.0.0.1"):
        server.serve(with_keys, Listening(host=host), key=b"k", read_config=lambda: without)
    with pytest.raises(ConfigError, match=r"on the loopback only, and 0\.0\.0\.0 is not"):
        found[0]()
    assert found[1]() == without
