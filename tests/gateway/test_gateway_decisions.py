"""What is kept of decisions, for how long, and how the operator reads it."""

import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from fakes import MeanRestorer, PatchTriggerClassifier, plain_images
from faulty_server import Server, output
from gateway_runner import KEY, Running
from maskrestore import BDMAE
from maskrestore.errors import ConfigError
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.database import VERSION
from maskrestore.gateway.decisions import DecisionStore, Filters, KeptDecision, iso, today
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.records import Decision

Start = Callable[..., Running]
INFER = "/v2/models/colours/infer"
TROJAN = PatchTriggerClassifier(target=6)
CLEAN = plain_images(2, seed=4)
MARKED = TROJAN.stamp(CLEAN)


@pytest.fixture
def backdoor(server: Server) -> Server:
    """The upstream answers 6 where its patch is."""
    server.answer = lambda values: output(
        "FP32", [1, 8], np.eye(8)[TROJAN(torch.from_numpy(values.copy()))].ravel().tolist()
    )
    return server


def ask(running: Running, images: torch.Tensor) -> Any:
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    return running.client.post(INFER, json={"inputs": [entry]})


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def decision(**fields: Any) -> Decision:
    common: dict[str, Any] = {
        "id": new_id(), "time": iso(time.time()), "model": "m", "tenant": "t", "request": "r", "place": 0,
        "content": "0" * 16, "channels": 3, "height": 8, "width": 8, "shielded": True, "classifier": "c",
        "key_fingerprint": "k", "config_digest": "d", "version": "1", "label": 1, "original_label": 1,
        "changed": False, "queries": 6, "seconds": 0.5, "waited": 0.1,
    }  # fmt: skip
    return Decision(**{**common, **fields})


def test_a_trigger_is_removed_and_the_decision_says_what(
    backdoor: Server, gateway: Start, place: dict[str, Any]
) -> None:
    running = gateway(decisions=place)
    expected = BDMAE(MeanRestorer(), "fast", key=KEY).purify(torch.cat([MARKED, CLEAN]), TROJAN)
    assert expected.labels.tolist() != expected.original_labels.tolist(), "the trigger works, and is removed"
    assert ask(running, torch.cat([MARKED, CLEAN])).status_code == 200
    page = running.client.get("/v1/decisions?limit=3").json()
    assert [one["place"] for one in page["decisions"]] == [3, 2, 1]
    rest = running.client.get("/v1/decisions", params={"before": page["next"]}).json()
    assert [one["place"] for one in rest["decisions"]] == [0]
    assert rest["next"] is None
    found = rest["decisions"] + page["decisions"][::-1]
    assert [one["label"] for one in found] == expected.labels[[0, 1, 2, 3]].tolist()[:1] + expected.labels[1:].tolist()
    changed = running.client.get("/v1/decisions?changed=true").json()["decisions"]
    assert [one["place"] for one in changed[::-1]] == (
        expected.labels != expected.original_labels
    ).nonzero().flatten().tolist()
    first = running.client.get(f"/v1/decisions/{found[0]['id']}").json()
    assert first["maps"]["hidden"] == expected.hidden[0].float().tolist()
    assert np.allclose(first["maps"]["scores"], expected.scores[0], atol=1e-6)
    before, after, removed = (
        Image.open(io.BytesIO(running.client.get(f"/v1/decisions/{found[0]['id']}/{name}.png").content))
        for name in ("before", "after", "removed")
    )
    assert np.array_equal(np.asarray(before), MARKED[0].mul(255).round().byte().permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(after), expected.images[0].mul(255).round().byte().permute(1, 2, 0).numpy())
    assert np.asarray(removed).max() > 100
    assert running.client.get("/v1/decisions/0/before.png").status_code == 404
    assert running.client.get("/v1/decisions/0").status_code == 404
    assert running.client.get(f"/v1/decisions/{found[0]['id']}/other.png").status_code == 400


def test_image_files_and_all_stages(backdoor: Server, gateway: Start) -> None:
    running = gateway()
    file = png(MARKED[0])
    found = running.client.post("/v1/purify?png=true&stages=true", content=file).json()
    assert found["decision"]["original_label"] == 6
    assert found["decision"]["changed"] is True
    titles = [one["title"] for one in found["stages"]]
    assert titles[0] == "Input"
    assert len(titles) >= 4
    assert all(one["picture"].startswith("data:image/png;base64,") for one in found["stages"])
    assert found["png"].startswith("data:image/png;base64,")
    as_form = running.client.post("/v1/purify", files={"file": ("a.png", file)})
    assert as_form.json()["decision"]["result"] == found["decision"]["result"]
    assert as_form.json()["stages"] == []
    for status, more in (
        (400, {"content": b""}), (400, {"content": b"no picture"}), (400, {"files": {"other": file}}),
        (400, {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}),
        (404, {"content": file, "params": {"model": "other"}}), (400, {"content": file, "params": {"png": "perhaps"}}),
    ):  # fmt: skip
        assert running.client.post("/v1/purify", **more).status_code == status, more


def test_a_picture_that_would_fill_the_memory_is_refused(gateway: Start) -> None:
    bomb = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(bomb, "PNG")
    found = gateway().client.post("/v1/purify", content=bomb.getvalue())
    assert found.status_code == 400
    assert "expected at most" in found.json()["error"]


def test_a_replay_says_whether_anything_differs(backdoor: Server, gateway: Start, place: dict[str, Any]) -> None:
    running = gateway(decisions=place)
    made = running.client.post("/v1/purify", content=png(MARKED[0])).json()["decision"]
    again = running.client.post(f"/v1/decisions/{made['id']}/replay", content=png(MARKED[0])).json()
    assert (again["same"], again["differences"], again["changed"]) == (True, {}, {})
    other = running.client.post(f"/v1/decisions/{made['id']}/replay", content=png(CLEAN[0]))
    assert other.status_code == 409
    assert len(running.client.get("/v1/decisions").json()["decisions"]) == 1, "a replay is not kept"
    backdoor.answer = lambda values: output("FP32", [1, 8], np.eye(8)[7].tolist())
    changed = gateway({"version": "2"}, decisions=place)
    again = changed.client.post(f"/v1/decisions/{made['id']}/replay", content=png(MARKED[0])).json()
    assert again["same"] is False
    assert again["differences"]["label"] == [made["label"], 7]
    assert set(again["changed"]) == {"config_digest"}


def test_new_decisions_are_streamed(backdoor: Server, gateway: Start, place: dict[str, Any]) -> None:
    running = gateway(decisions=place)
    ask(running, CLEAN)
    last = running.client.get("/v1/decisions").json()["decisions"][-1]["id"]
    events: list[dict[str, Any]] = []
    ready = threading.Event()

    def listen() -> None:
        url = f"{running.address}/v1/decisions/stream?model=colours"
        with httpx.stream("GET", url, headers={"Last-Event-ID": last}, trust_env=False, timeout=20) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                    ready.set()
                if len(events) == 3:
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(10)
    ask(running, MARKED)
    thread.join(10)
    assert [one["original_label"] for one in events[1:]] == [6, 6]
    assert events[0]["id"] > last
    assert events[1]["pictures"] == ["before", "after", "removed"]


def test_statistics_and_metrics_count_the_same(backdoor: Server, gateway: Start, place: dict[str, Any]) -> None:
    running = gateway(decisions=place)
    ask(running, torch.cat([MARKED, CLEAN]))
    ask(running, CLEAN[:0])
    (bucket,) = running.client.get("/v1/statistics").json()["buckets"]
    assert bucket["decisions"] == 4
    metrics = {}
    for family in text_string_to_metric_families(running.client.get("/metrics").text):
        for sample in family.samples:
            metrics[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    model = ("model", "colours")
    tenant = ("tenant", "everyone")
    changed = metrics["maskrestore_pictures_total", (model, ("outcome", "changed"), tenant)]
    assert changed == bucket["changed"] > 0
    assert metrics["maskrestore_queries_total", (model, tenant)] == bucket["queries"]
    assert metrics["maskrestore_picture_seconds_count", (model,)] == 4
    assert metrics["maskrestore_ready", (model,)] == 1
    assert metrics["maskrestore_refused_total", (("status", "400"),)] == 1
    route = ("route", "/v2/models/{model}/infer")
    assert metrics["maskrestore_requests_total", (route, ("status", "200"))] == 1


@pytest.mark.parametrize(("keep", "expected"), [("off", [0, 0]), ("changed", [3, 0]), ("all", [3, 3])])
def test_pictures_are_kept_only_if_asked(
    backdoor: Server, gateway: Start, place: dict[str, Any], keep: str, expected: list[int]
) -> None:
    ask(gateway(decisions={**place, "pictures": keep, "recent": 0}), torch.stack([MARKED[0], CLEAN[0]]))
    store = DecisionStore(DecisionsConfig(**place))
    found = store.page(Filters(), before=None, limit=10)[::-1]
    assert [len(one.pictures) for one in found] == expected
    assert (store.picture(found[0].id, "removed") is not None) == (expected[0] > 0)


def test_old_decisions_and_those_beyond_the_size_are_deleted(place: dict[str, Any]) -> None:
    store = DecisionStore(DecisionsConfig(**place, max_age_days=1, max_megabytes=1))
    store.add([KeptDecision(decision=decision(time=iso(time.time() - 90_000)))], {})
    recent = [decision() for _ in range(700)]
    noise = np.random.default_rng(0)
    store.add([KeptDecision(decision=one, maps={"scores": noise.random((14, 14))}) for one in recent], {"t": 7})
    assert store.prune() >= 1
    left = store.page(Filters(), before=None, limit=1000)
    assert 0 < len(left) < 700
    assert left[0].id == recent[-1].id, "the newest stay"
    if "path" in place:
        assert place["path"].stat().st_size < 2**20 * 1.2
        assert store.spent(today()) == {"t": 7}
    assert store.prune() == 0


def test_filters_are_the_same_in_sql_and_for_the_stream(place: dict[str, Any]) -> None:
    store = DecisionStore(DecisionsConfig(**place))
    all_of_them = [
        decision(), decision(changed=True, suspicion=0.9, doubtful=False),
        decision(label=None, suspicion=0.7, doubtful=True, abstained=True),
        decision(error="E", label=None, changed=None, shielded=False),
        decision(model="other"), decision(tenant="other", suspicion=0.2), decision(shielded=False),
    ]  # fmt: skip
    store.add([KeptDecision(decision=one) for one in all_of_them], {})
    for values in (
        {}, {"changed": True}, {"changed": False}, {"errors": True}, {"errors": False}, {"unshielded": True},
        {"suspicion": 0.5}, {"doubtful": True}, {"doubtful": False}, {"doubtful": True, "suspicion": 0.8},
        {"model": "other"}, {"tenant": "t", "errors": False},
    ):  # fmt: skip
        filters = Filters(**values)
        found = {one.id for one in store.page(filters, before=None, limit=100)}
        assert found == {one.id for one in all_of_them if filters.matches(one)}, values


VERSION_1 = """
CREATE TABLE decisions (
    id TEXT PRIMARY KEY, time DOUBLE PRECISION, model TEXT, tenant TEXT, changed INT, failed INT, shielded INT,
    suspicion DOUBLE PRECISION, queries INT, seconds DOUBLE PRECISION, waited DOUBLE PRECISION, record TEXT,
    maps BLOB, pictures BLOB
) WITHOUT ROWID;
CREATE INDEX by_time ON decisions (time);
CREATE TABLE spent (tenant TEXT, day TEXT, queries BIGINT, PRIMARY KEY (tenant, day)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
"""Tables as they were before decisions said what is in doubt."""


def test_a_file_of_the_version_before_goes_on(tmp_path: Path) -> None:
    path, earlier = tmp_path / "d.sqlite", decision(label_name="stop")
    record = earlier.model_dump_json(exclude={"pictures", "purified_label", "purified_name", "doubtful", "abstained"})
    maps = io.BytesIO()
    np.savez(maps, hidden=np.ones((8, 8)))
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(VERSION_1)
        row = (earlier.id, time.time(), "m", "t", 0, 0, 1, None, 6, 0.5, 0.1, record, maps.getvalue(), None)
        db.execute(f"INSERT INTO decisions VALUES ({', '.join('?' * 14)})", row)
        db.execute("INSERT INTO spent VALUES ('t', ?, 7)", [today()])
    with ThreadPoolExecutor(4) as pool:  # as several workers do
        stores = list(pool.map(lambda _: DecisionStore(DecisionsConfig(path=path)), range(4)))
    later = decision(label=None, suspicion=0.9, doubtful=True, abstained=True)
    stores[0].add([KeptDecision(decision=later)], {})
    for store in stores:
        found = store.page(Filters(), before=None, limit=9)
        assert found == [later, earlier.model_copy(update={"purified_label": 1, "purified_name": "stop"})]
        assert store.page(Filters(doubtful=True), before=None, limit=9) == [later]
        kept = store.get(earlier.id)
        assert kept is not None
        assert kept.maps["hidden"].all()
        assert sum(one.doubtful for one in store.statistics(60)) == 1
        assert store.spent(today()) == {"t": 7}
        store.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigError, match="another version of maskrestore"):
        DecisionStore(DecisionsConfig(path=tmp_path / "d.sqlite"))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.sqlite").write_text("no database " * 100)
    with pytest.raises(ConfigError, match="cannot be kept"):
        DecisionStore(DecisionsConfig(path=tmp_path / "d.sqlite"))
    with pytest.raises(ConfigError, match="cannot be kept"):
        DecisionStore(DecisionsConfig(path=tmp_path / "no" / "folder"))
