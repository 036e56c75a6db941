"""The gateway on a real cluster of Ray with two replicas: what holds for both together, and when one of them goes."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")

from benchmarks.mlserver import free_port

from fakes import plain_images
from gateway_clients import CLEAN, MARKED, WITHIN, png
from gateway_program import until
from gateway_runner import KEY, running_gateway
from maskrestore.distributed.serve import app, check_place
from maskrestore.errors import ConfigError
from maskrestore.gateway.access import new_key
from maskrestore.gateway.config import DecisionsConfig, GatewayConfig
from maskrestore.gateway.decisions import DecisionStore, Filters
from maskrestore.mae.choice import load_restorer
from maskrestore.runtime.digests import digest_of_key
from serve_replicas import kill, logs, replicas

SHOP, OFTEN, POOR, BOSS = (new_key() for _ in range(4))
OPERATOR = {"X-API-Key": BOSS}
RESULT = ("label", "original_label", "changed", "queries", "restored", "result", "content", "restorer", "classifier",
          "config_digest", "key_fingerprint", "version")  # fmt: skip


class Two:
    """A gateway with two replicas, and clients of it."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.path, self.key_file = address, folder / "decisions.sqlite", folder / "key"
        self.key_file.write_bytes(KEY)
        self.config = config(self.path)
        self.deploy(self.config)

    def deploy(self, config: GatewayConfig) -> None:
        from ray import serve

        args = {"config": config.model_dump(mode="json"), "key_file": str(self.key_file), "replicas": 2}
        found = app(args)  # as Serve calls it for its own files
        serve.run(found, name="maskrestore", route_prefix="/")

    def ask(self, image: torch.Tensor, key: str = SHOP, model: str = "signs") -> httpx.Response:
        url = f"{self.address}/v1/purify?model={model}"
        return httpx.post(url, content=png(image), headers={"X-API-Key": key}, timeout=60, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", headers=OPERATOR, timeout=60, trust_env=False)

    def kept(self, tenant: str | None = None) -> dict[str, Any]:
        store = DecisionStore(DecisionsConfig(path=self.path))
        found = store.page(Filters(tenant=tenant), before=None, limit=10_000)
        store.close()
        return {one.id: one for one in found}


def config(path: Path, **more: Any) -> GatewayConfig:
    keys = {"shop": {}, "often": {"rate": "5/year"}, "poor": {"queries_per_day": 100}}
    hashes = dict(zip(keys, map(digest_of_key, (SHOP, OFTEN, POOR)), strict=True))
    return GatewayConfig.model_validate(
        {
            "restorer": "mae-tiny-32",
            "models": {"signs": WITHIN},
            "tenants": {name: {"key_hash": hashes[name], **limits} for name, limits in keys.items()},
            "operator": {"key_hash": digest_of_key(BOSS)},
            "decisions": {"path": path},
            **more,
        }
    )


def replica_of(identity: str) -> str:
    """Ids of decisions and requests end with digits of their replica."""
    return identity[14:]


@pytest.fixture(scope="module")
def two(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield Two(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("two"))
    serve.shutdown()


def test_decisions_are_those_of_a_plain_gateway_and_both_replicas_make_some(two: Two) -> None:
    images = torch.cat([MARKED, CLEAN, plain_images(8, seed=1)])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(two.ask, images))
    assert [one.status_code for one in answers] == [200] * len(images)
    found = [one.json()["decision"] for one in answers]
    restorer = load_restorer("mae-tiny-32")
    with running_gateway(GatewayConfig.model_validate({"models": {"signs": WITHIN}}), restorer) as plain:
        expected = [plain.client.post("/v1/purify", content=png(one)).json()["decision"] for one in images]
    for one, other in zip(found, expected, strict=True):
        assert {name: one[name] for name in RESULT} == {name: other[name] for name in RESULT}
    assert any(one["changed"] for one in found)
    assert {one["id"] for one in found} <= two.kept().keys(), "in one file, when they are answered"
    assert len({replica_of(one["id"]) for one in found}) == 2


def test_rates_and_budgets_are_for_both_replicas_together(two: Two) -> None:
    rated = [two.ask(CLEAN[0], OFTEN) for _ in range(8)]
    assert [one.status_code for one in rated] == [200] * 5 + [429] * 3
    assert rated[-1].json() == {"error": "the rate is 5 per 1 year"}
    answers = [two.ask(CLEAN[0], POOR)]
    while answers[-1].status_code == 200:
        answers.append(two.ask(CLEAN[0], POOR))
    assert (answers[-1].status_code, "of 100 queries are left today" in answers[-1].text) == (429, True)
    assert 100 - 47 < sum(one.queries for one in two.kept("poor").values()) <= 100
    assert len({replica_of(one.headers["Maskrestore-Request"]) for one in [*rated, *answers]}) == 2


@pytest.mark.cluster
def test_what_one_replica_decided_the_other_one_shows(two: Two) -> None:
    url = f"{two.address}/v1/decisions/stream?tenant=shop"
    with httpx.stream("GET", url, headers=OPERATOR, timeout=60, trust_env=False) as stream:
        here = replica_of(stream.headers["Maskrestore-Request"])
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        made = next(one for one in map(two.ask, itertools.repeat(CLEAN[0])) if there(one) != here)
        decision = made.json()["decision"]["id"]
        assert any(line == f"id: {decision}" for line in lines)
    pictures = [two.get(f"/v1/decisions/{decision}/before.png") for _ in range(20)]
    assert {one.status_code for one in pictures} == {200}
    assert len({one.content for one in pictures}) == 1
    assert len(set(map(there, pictures))) == 2, "pictures that are in no file, from both"


def there(answer: httpx.Response) -> str:
    return replica_of(answer.headers["Maskrestore-Request"])


def ask_both(two: Two) -> None:
    """Send pictures until each replica has purified one."""
    found: set[str] = set()
    until(lambda: found.add(there(two.ask(CLEAN[0]))) or len(found) == 2)


def use_up_the_rate(two: Two) -> None:
    """Of the tenant that has one, also where this test runs without those before it."""
    until(lambda: two.ask(CLEAN[0], OFTEN).status_code == 429)


@pytest.mark.cluster
def test_metrics_are_those_of_both_replicas_by_name(two: Two) -> None:
    def counted() -> dict[str, float]:
        families = text_string_to_metric_families(two.get("/metrics").text)
        samples = [one for family in families for one in family.samples]
        found: dict[str, float] = {}
        for one in samples:
            if one.name == "maskrestore_pictures_total":
                name = one.labels["replica"]
                found[name] = found.get(name, 0.0) + one.value
        assert sum(one.value for one in samples if one.name == "maskrestore_ready") == 1
        return found

    ask_both(two)
    until(lambda: len(found := counted()) == 2 and sum(found.values()) == len(two.kept()))


@pytest.mark.cluster
def test_an_update_under_load_loses_no_request(two: Two) -> None:
    done = threading.Event()

    def load(place: int) -> list[int]:
        statuses = []
        while not done.wait(0.05):
            statuses.append(two.ask(CLEAN[place % 2]).status_code)
        return statuses

    use_up_the_rate(two)
    before = {there(two.get("/v2")) for _ in range(20)}
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load, place) for place in range(3)]
        try:
            two.deploy(config(two.path, models={"signs": WITHIN, "more": WITHIN}))
        finally:
            done.set()
    statuses = [status for one in loads for status in one.result()]
    assert len(statuses) > 10
    assert set(statuses) == {200}
    after = {there(two.get("/v2")) for _ in range(20)}
    assert len(before | after) == 4, "other replicas"
    assert {two.ask(CLEAN[0], model="more").status_code for _ in range(8)} == {200}
    assert two.ask(CLEAN[0], OFTEN).status_code == 429, "the rate goes on"


@pytest.mark.cluster
def test_kill_9_of_a_replica_under_load(two: Two) -> None:
    images = plain_images(40, seed=2)
    use_up_the_rate(two)
    before = replicas()
    assert len(before) == 2
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(two.ask, one) for one in images]
        until(lambda: sum(one.done() for one in asked) >= 6)
        kill(before[0])
        answers = [one.result() for one in asked]
    good = [one for one in answers if one.status_code == 200]
    assert {one.status_code for one in answers} <= {200, 500, 503}
    assert len(good) >= len(images) - 8, "only those that the replica had accepted have no answer"
    assert {one.json()["decision"]["id"] for one in good} <= two.kept().keys()
    until(lambda: len(replicas()) == 2 and replicas() != before)
    assert two.ask(CLEAN[0], OFTEN).status_code == 429, "the rate goes on"


def test_without_keys_serve_must_listen_on_the_loopback(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.context import _get_global_client

    without = GatewayConfig.model_validate({"models": {"signs": WITHIN}, "decisions": {"path": two.path}})
    check_place(without)
    monkeypatch.setattr(_get_global_client().http_config, "host", "0.0.0.0")
    with pytest.raises(ConfigError, match=r"on the loopback only, and 0\.0\.0\.0 is not on it"):
        check_place(without)
    check_place(two.config)


def test_a_file_of_decisions_is_for_one_machine(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskrestore.distributed import serve
    from maskrestore.distributed.cluster import ClusterSize, Node

    monkeypatch.setattr(serve, "cluster_size", lambda: ClusterSize((Node(cpus=4, gpus=0), Node(cpus=4, gpus=0))))
    with pytest.raises(ConfigError, match="the cluster has 2 machines"):
        check_place(two.config)
    url = DecisionsConfig(url="postgresql://db/maskrestore")  # type: ignore[arg-type]
    check_place(two.config.model_copy(update={"decisions": url}))


def test_keys_are_in_no_log(two: Two) -> None:
    found = list(logs())
    assert any(b"/v1/purify" in one for one in found), "of replicas"
    assert not any(secret in one for one in found for secret in (KEY, SHOP.encode(), BOSS.encode()))
