"""Decisions in PostgreSQL: what several gateways share, and what happens without the server.

What both kinds of database do is in ``test_gateway_decisions`` and ``test_gateway_access``.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fakes import plain_images
from faulty_server import Server, output
from gateway_program import until
from gateway_runner import Running
from maskrestore.errors import ConfigError
from maskrestore.gateway.access import new_key
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.database import VERSION
from maskrestore.gateway.decisions import DecisionStore, Filters, KeptDecision, iso, today
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.ledger import BudgetsInDatabase
from maskrestore.gateway.records import Decision
from maskrestore.runtime.digests import digest_of_key
from postgres_server import PASSWORD, PostgresServer

Start = Callable[..., Running]
SHOP, BOSS = new_key(), new_key()
KEYS = {
    "tenants": {"shop": {"key_hash": digest_of_key(SHOP), "queries_per_day": 100}},
    "operator": {"key_hash": digest_of_key(BOSS)},
}
pytestmark = pytest.mark.usefixtures("plain_ids")


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.place()


def store_of(url: str) -> DecisionStore:
    return DecisionStore(DecisionsConfig(url=url))  # type: ignore[arg-type]


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    one = store_of(url)
    yield one
    one.close()


def kept(**fields: Any) -> KeptDecision:
    common: dict[str, Any] = {
        "id": new_id(), "time": iso(time.time()), "model": "m", "tenant": "t", "request": "r", "place": 0,
        "content": "0" * 16, "channels": 3, "height": 8, "width": 8, "shielded": True, "classifier": "c",
        "key_fingerprint": "k", "config_digest": "d", "version": "1",
    }  # fmt: skip
    return KeptDecision(decision=Decision(**{**common, **fields}))


def ask(running: Running) -> Any:
    images = plain_images(1)
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
    headers = {"X-API-Key": SHOP}
    return running.client.post("/v2/models/colours/infer", json={"inputs": [entry]}, headers=headers)


def test_gateways_share_decisions_and_budgets(gateway: Start, url: str) -> None:
    both = [gateway(**KEYS, decisions={"url": url}) for _ in range(2)]
    answers = [ask(both[place % 2]) for place in range(30)]
    good = [one for one in answers if one.status_code == 200]
    assert {one.status_code for one in answers} == {200, 429}
    assert "of 100 queries are left today" in answers[-1].json()["error"]
    for running in both:
        found = running.client.get("/v1/decisions", headers={"X-API-Key": BOSS}).json()["decisions"]
        assert {one["id"] for one in found} == {one.headers["Maskrestore-Decision"] for one in good}
        spent = sum(one["queries"] for one in found)
        assert 100 - 47 < spent <= 100
        assert running.gateway.store.spent(today()) == {"shop": spent}


def test_no_more_is_reserved_than_there_is_however_many_ask_at_once(url: str) -> None:
    stores = [store_of(url) for _ in range(4)]
    budgets = [BudgetsInDatabase(one) for one in stores]

    def reserve(place: int) -> int:
        try:
            budgets[place % 4].reserve("shop", 10, 250, "worker")
        except RefusedError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(reserve, range(100))) == {200: 25, 429: 75}
    assert stores[0].spent(today()) == {"shop": 250}
    for one in stores:
        one.close()


def test_what_was_reserved_and_not_asked_is_given_back(store: DecisionStore) -> None:
    budgets = BudgetsInDatabase(store)
    reserved = budgets.reserve("shop", 40, 60, "worker")
    with pytest.raises(RefusedError, match="20 of 60 queries are left today, and this may take 40"):
        budgets.reserve("shop", 40, 60, "worker")
    budgets.settle(reserved, 5, "worker")
    assert store.spent(today()) == {"shop": 5}
    with pytest.raises(RefusedError, match="55 of 60"):
        budgets.reserve("shop", 61, 60, "worker")
    budgets.settle(budgets.reserve("free", 40, None, "worker"), 3, "worker")
    assert store.spent(today()) == {"shop": 5, "free": 3}, "without a budget only what was asked"


def test_names_of_classes_must_be_known(gateway: Start, server: Server, url: str) -> None:
    server.metadata["outputs"][0].update(datatype="BYTES", shape=[-1])
    server.answer = lambda _: output("BYTES", [1], ["stop"])
    unknown = gateway(**KEYS, decisions={"url": url})
    assert ask(unknown).status_code == 503
    (decision,) = unknown.gateway.store.page(Filters(), before=None, limit=9)
    assert "give the names of all classes" in (decision.error or "")
    known = gateway({"classes": ["go", "stop"]}, decisions={"url": url})
    assert ask(known).json()["outputs"][0]["data"] == ["stop"]


def test_a_connection_that_broke_is_made_again(postgres: PostgresServer, store: DecisionStore) -> None:
    store.add([one := kept()], {})
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'maskrestore'")
    store.add([two := kept()], {})
    postgres.stop()
    postgres.start()
    assert [each.id for each in store.page(Filters(), before=None, limit=9)] == [two.decision.id, one.decision.id]


def test_without_the_server_nothing_is_answered_and_later_all_is_as_before(
    gateway: Start, postgres: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    running, free = gateway(**KEYS, decisions={"url": url}), gateway(decisions={"url": url})
    assert ask(running).status_code == 200
    before = running.gateway.store.spent(today())["shop"]
    postgres.stop()
    try:
        refused, lost = ask(running), ask(free)
        assert (refused.status_code, refused.json()["error"]) == (503, "budgets cannot be checked now")
        assert (lost.status_code, lost.json()["error"]) == (503, "the decision cannot be kept, so there is no answer")
        assert running.client.get("/v1/decisions", headers={"X-API-Key": BOSS}).status_code == 500
    finally:
        postgres.start()
    until(lambda: ask(free).status_code == 200)
    until(lambda: ask(running).status_code == 200)
    assert running.gateway.store.spent(today())["shop"] == 2 * before
    nowhere = url.replace(f":{postgres.port}/", ":1/")
    with pytest.raises(ConfigError, match="start the server") as caught:
        store_of(nowhere)
    told = f"{caught.value} {caplog.text}"
    assert "connection" in told
    assert PASSWORD not in told
    assert not any(part in told for part in ("p%40ss", "ss/word", "p@ss"))


def test_a_server_that_cannot_be_reached_holds_up_one_request_and_no_other(
    postgres: PostgresServer, store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Any = store._db
    tried = []

    def lost() -> Any:
        tried.append(time.monotonic())
        time.sleep(0.3)
        raise database._psycopg.OperationalError("no answer")

    database._db.close()
    with monkeypatch.context() as patched:
        patched.setattr(database, "_connected", lost)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(store.spent, today()) for _ in range(8)]
    assert all(isinstance(one.exception(), database._psycopg.OperationalError) for one in asked)
    assert len(tried) == 1
    until(lambda: time.monotonic() > database._pause_until)
    assert store.spent(today()) == {}


@pytest.mark.parametrize(
    "wrong",
    ["mysql://u:topsecret@h/d", "postgresql://u:top@secret@h/d", "postgresql://u:top/secret@h/d",
     "postgresql://u:topsecret@h:x/d", "postgresql://u:topsecret@h/d?topsecret"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_its_password(wrong: str) -> None:
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    with pytest.raises(ConfigError) as caught:
        store_of(wrong)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_is_said_and_not_shown(postgres: PostgresServer, url: str) -> None:
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        store_of(url.replace("word@", "other@"))
    assert "other" not in str(caught.value)


def test_tables_of_the_version_before_are_changed_by_whoever_may(
    postgres: PostgresServer, url: str, store: DecisionStore
) -> None:
    schema, user = url.rpartition("%3D")[2], f"clerk_{new_id().lower()}".replace("-", "_")
    store.add([earlier := kept(label=3)], {})
    postgres.execute(f"ALTER TABLE {schema}.decisions DROP COLUMN doubtful")
    postgres.execute(f"COMMENT ON TABLE {schema}.decisions IS 'maskrestore 1'")
    postgres.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'clerk'")
    postgres.execute(f"GRANT USAGE ON SCHEMA {schema} TO {user}")
    postgres.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")
    clerks = f"postgresql://{user}:clerk@127.0.0.1:{postgres.port}/postgres?options=-csearch_path%3D{schema}"
    with pytest.raises(ConfigError, match="must change them once: ALTER TABLE decisions ADD COLUMN doubtful INT; COM"):
        store_of(clerks)
    with ThreadPoolExecutor(4) as pool:  # as gateways that start together do
        others = list(pool.map(store_of, [url] * 4))
    others.append(store_of(clerks))
    others[-1].add([later := kept(doubtful=True, abstained=True)], {})
    for one in others:
        found = one.page(Filters(), before=None, limit=9)
        assert [each.id for each in found] == [later.decision.id, earlier.decision.id]
        assert [each.id for each in one.page(Filters(doubtful=True), before=None, limit=9)] == [later.decision.id]
        one.close()


def test_tables_of_another_version_are_refused(postgres: PostgresServer, url: str, store: DecisionStore) -> None:
    schema = url.rpartition("%3D")[2]
    postgres.execute(f"COMMENT ON TABLE {schema}.decisions IS 'maskrestore 0'")
    with pytest.raises(ConfigError, match=rf"another version of maskrestore \(maskrestore 0, this one: {VERSION}\)"):
        store_of(url)
