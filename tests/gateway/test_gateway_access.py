import base64
import re
from collections.abc import Callable
from typing import Any

import limits
import pytest

from fakes import plain_images
from gateway_runner import Running
from maskrestore.errors import ConfigError
from maskrestore.gateway.access import Access, new_key
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.decisions import today
from maskrestore.gateway.errors import OverloadedError, RefusedError
from maskrestore.gateway.ledger import BudgetsInMemory, Ledger
from maskrestore.runtime.digests import digest_of_key

Start = Callable[..., Running]
INFER = "/v2/models/colours/infer"
SHOP, OTHER, BOSS = new_key(), new_key(), new_key()


def keys(**shop: Any) -> dict[str, Any]:
    return {
        "tenants": {"shop": {"key_hash": digest_of_key(SHOP), **shop}, "other": {"key_hash": digest_of_key(OTHER)}},
        "operator": {"key_hash": digest_of_key(BOSS)},
    }


def ask(running: Running, key: str | None, pictures: int = 1) -> Any:
    images = plain_images(pictures)
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return running.client.post(INFER, json={"inputs": [entry]}, headers=headers)


def test_pictures_need_a_key_of_a_client(gateway: Start) -> None:
    running = gateway(**keys())
    assert ask(running, None).status_code == 401
    assert ask(running, "mr_" + "x" * 43).status_code == 401
    assert ask(running, SHOP).status_code == 200
    assert running.client.post(INFER, headers={"X-API-Key": SHOP}, content=b"{}").status_code == 400
    as_basic = {"Authorization": "Basic " + base64.b64encode(f"any:{SHOP}".encode()).decode()}
    assert running.client.post(INFER, headers=as_basic, content=b"{}").status_code == 400
    assert running.client.post(INFER, headers={"Authorization": "Basic *"}, content=b"{}").status_code == 401
    decisions = running.client.get("/v1/decisions", headers={"X-API-Key": BOSS}).json()["decisions"]
    assert [one["tenant"] for one in decisions] == ["shop"]


PAGES = ("/v1/decisions", "/v1/decisions/stream", "/v1/decisions/1", "/v1/decisions/1/after.png", "/v1/statistics",
         "/v1/status", "/metrics")  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_what_the_operator_sees_needs_the_operators_key(gateway: Start, path: str) -> None:
    running = gateway(**keys())
    for headers in ({}, {"X-API-Key": SHOP}):
        found = running.client.get(path, headers=headers)
        assert found.status_code == 401
        assert found.headers["WWW-Authenticate"].startswith("Basic")
    assert running.client.post("/v1/decisions/1/replay", headers={"X-API-Key": SHOP}).status_code == 401


def test_health_and_metadata_need_no_key(gateway: Start) -> None:
    client = gateway(**keys()).client
    for path in ("/v2", "/v2/health/ready", "/v2/models/colours"):
        assert client.get(path).status_code == 200


def test_pages_of_other_sites_reach_nothing(gateway: Start) -> None:
    client = gateway().client
    assert client.get("/v1/decisions", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/v1/decisions", headers={"Host": "evil.example"}).status_code == 400, "a name of its own"
    assert client.get("/v1/decisions", headers={"Host": "localhost:8080"}).status_code == 200


def test_rates_count_pictures(gateway: Start) -> None:
    running = gateway(**keys(rate="3/minute"))
    assert ask(running, SHOP, 2).status_code == 200
    found = ask(running, SHOP, 2)
    assert (found.status_code, found.json()["error"]) == (429, "the rate is 3 per 1 minute")
    assert 1 <= int(found.headers["Retry-After"]) <= 60
    assert ask(running, SHOP, 1).status_code == 200
    assert ask(running, SHOP, 4).status_code == 413, "that would never fit"
    assert ask(running, OTHER, 4).status_code == 200


def test_budgets_count_queries_and_survive_a_restart(gateway: Start, place: dict[str, Any]) -> None:
    sections = {**keys(queries_per_day=60), "decisions": place}
    running = gateway(**sections)
    assert ask(running, SHOP).status_code == 200
    spent = running.gateway.store.spent(today())["shop"]
    assert 0 < spent < 20
    assert ask(running, SHOP).status_code == 200
    again = gateway(**sections)
    while (found := ask(again, SHOP)).status_code == 200:
        pass
    assert found.status_code == 429
    assert re.search(r"\d+ of 60 queries are left today, and this may take 47", found.text)
    assert 60 - 47 < again.gateway.store.spent(today())["shop"] <= 60


def test_what_the_queue_refuses_costs_no_budget(gateway: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = gateway(**keys(queries_per_day=60))
    model = running.gateway.slots["colours"].model
    assert model is not None

    def full(*_: object) -> None:
        raise OverloadedError("many are before these", 1)

    with monkeypatch.context() as patched:
        patched.setattr(model.scheduler, "submit", full)
        for _ in range(3):
            found = ask(running, SHOP)
            assert (found.status_code, found.json()["error"]) == (429, "many are before these")
    assert ask(running, SHOP).status_code == 200


def test_what_the_budget_refuses_does_not_count_against_the_rate() -> None:
    ledger = Ledger(BudgetsInMemory({}))
    rate = limits.parse("1/year")
    with pytest.raises(RefusedError, match="20 of 20"):
        ledger.admit("a", 1, 40, rate=rate, most=20)
    ledger.admit("a", 1, 10, rate=rate, most=20)
    with pytest.raises(RefusedError, match="1 per 1 year"):
        ledger.admit("a", 1, 10, rate=rate, most=20)


def test_reservations_are_given_back() -> None:
    ledger = Ledger(BudgetsInMemory({}))
    reserved = ledger.admit("a", 1, 40, rate=None, most=60)
    with pytest.raises(RefusedError, match="20 of 60"):
        ledger.admit("a", 1, 40, rate=None, most=60)
    ledger.settle(reserved, 5)
    ledger.admit("a", 1, 55, rate=None, most=60)
    with pytest.raises(RefusedError, match="0 of 60"):
        ledger.admit("a", 1, 1, rate=None, most=60)


def test_what_a_worker_had_reserved_when_it_ended_counts_as_spent() -> None:
    ledger = Ledger(BudgetsInMemory({"a": 10}))
    ledger.admit("a", 1, 20, rate=None, most=60, worker=1)
    reserved = ledger.admit("a", 1, 20, rate=None, most=60, worker=2)
    ledger.abandon(1)
    ledger.settle(reserved, 0, worker=2)
    with pytest.raises(RefusedError, match="30 of 60"):
        ledger.admit("a", 1, 31, rate=None, most=60, worker=2)
    ledger.admit("a", 1, 30, rate=None, most=60, worker=2)


def test_a_key_may_be_for_some_models_only(gateway: Start) -> None:
    sections = keys()
    sections["tenants"]["shop"]["models"] = []
    assert ask(gateway(**sections), SHOP).status_code == 403


def config(**sections: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"models": {"colours": {"classifier": "a.onnx"}}, **sections})


def test_configurations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="the decisions need one"):
        config(tenants=keys()["tenants"])
    with pytest.raises(ValueError, match="two keys are the same"):
        config(tenants=keys()["tenants"], operator={"key_hash": digest_of_key(SHOP)})
    with pytest.raises(ValueError, match="String should match"):
        config(operator={"key_hash": BOSS})
    with pytest.raises(ValueError, match="another name than 'operator'"):
        config(**{**keys(), "tenants": {"operator": {"key_hash": digest_of_key(SHOP)}}})
    with pytest.raises(ConfigError, match="such as 600/minute"):
        Access(config(**keys(rate="often")), Ledger(BudgetsInMemory({})))


def test_keys_are_random_and_only_their_hash_is_kept() -> None:
    assert new_key() != new_key()
    assert SHOP not in config(**keys()).model_dump_json()
