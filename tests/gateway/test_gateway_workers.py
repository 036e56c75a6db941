"""``maskrestore serve --workers 2`` as a program: what holds for both workers together, and when one of them dies."""

import gzip
import itertools
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from fakes import colour_labels, plain_images
from faulty_server import Server, says
from gateway_program import Program, program, until
from maskrestore.gateway.access import new_key
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.decisions import DecisionStore, Filters
from maskrestore.runtime.digests import digest_of_key

SHOP, OFTEN, POOR, BOSS = (new_key() for _ in range(4))
CONFIG = f"""
restorer = "mae-tiny-32"
workers = 2
worker_timeout = 8
[models.colours]
classifier = "toy_colours:colours"
class_count = 8
[tenants.shop]
key_hash = "{digest_of_key(SHOP)}"
[tenants.often]
key_hash = "{digest_of_key(OFTEN)}"
rate = "5/year"
[tenants.poor]
key_hash = "{digest_of_key(POOR)}"
queries_per_day = 100
[operator]
key_hash = "{digest_of_key(BOSS)}"
"""
KEPT = '[decisions]\npath = "decisions.sqlite"\n'
IMAGES = plain_images(40, size=32)
OPERATOR = {"X-API-Key": BOSS}


def worker_of(answer: httpx.Response) -> int:
    """Which worker gave an answer: ids of requests are of different numbers."""
    return int(answer.headers["Maskrestore-Request"], 16) % 2


class Two(Program):
    """A program with two workers."""

    def pids(self) -> dict[int, int]:
        """Processes of workers by their number."""
        return {line["worker"]: line["pid"] for line in self.lines() if line["message"] == "a worker has begun"}

    def clients(self) -> list[httpx.Client]:
        """A client of each worker: a connection stays with the worker that accepted it."""
        found: dict[int, httpx.Client] = {}
        for _ in range(200):
            client = httpx.Client(base_url=self.address, timeout=60, trust_env=False)
            other = found.setdefault(worker_of(client.get("/v2/health/live")), client)
            if other is not client:
                client.close()
            if len(found) == 2:
                return [found[0], found[1]]
        raise AssertionError("one worker accepts no connections")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with program(tmp_path_factory.mktemp("two"), CONFIG + KEPT) as one:
        yield Two(one.process, one.address, one.log)


@pytest.fixture
def clients(two: Two) -> Iterator[list[httpx.Client]]:
    found = two.clients()
    yield found
    for one in found:
        one.close()


def ask(two: Two, client: httpx.Client, key: str, *places: int) -> httpx.Response:
    return two.ask(IMAGES[list(places)], client=client, **{"X-API-Key": key})


def label(answer: httpx.Response) -> int:
    return int(torch.tensor(answer.json()["outputs"][0]["data"]).argmax())


def test_a_rate_is_for_both_workers_together(two: Two, clients: list[httpx.Client]) -> None:
    first, second = clients
    assert ask(two, first, OFTEN, 0, 1, 2).status_code == 200
    refused = ask(two, second, OFTEN, 0, 1, 2)
    assert (refused.status_code, worker_of(refused)) == (429, 1)
    assert refused.json() == {"error": "the rate is 5 per 1 year"}
    assert int(refused.headers["Retry-After"]) > 60
    assert ask(two, second, OFTEN, 0, 1).status_code == 200
    assert ask(two, first, OFTEN, 0).status_code == 429


def test_a_budget_is_for_both_workers_together(two: Two, clients: list[httpx.Client]) -> None:
    for client in itertools.cycle(clients):
        answer = ask(two, client, POOR, 3)
        if answer.status_code != 200:
            break
    assert (answer.status_code, "of 100 queries are left today" in answer.text) == (429, True)
    by_tenant = {"params": {"tenant": "poor"}, "headers": OPERATOR}
    decisions = clients[0].get("/v1/decisions", **by_tenant).json()["decisions"]
    assert {int(one["id"], 16) % 2 for one in decisions} == {0, 1}, "both workers took some"
    assert 100 - 47 < sum(one["queries"] for one in decisions) <= 100


def test_what_one_worker_decided_the_other_one_shows(two: Two, clients: list[httpx.Client]) -> None:
    first, second = clients
    with second.stream("GET", "/v1/decisions/stream?tenant=shop", headers=OPERATOR) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, two, first, SHOP, 4)
            event = next(line for line in lines if line.startswith("id: "))
            made = asked.result().headers["Maskrestore-Decision"]
    assert event == f"id: {made}"
    found = second.get(f"/v1/decisions/{made}", headers=OPERATOR).json()
    assert (found["label"], found["pictures"]) == (int(colour_labels(IMAGES[[4]])), ["before", "after", "removed"])
    assert found["maps"]
    pictures = [one.get(f"/v1/decisions/{made}/before.png", headers=OPERATOR) for one in clients]
    assert [one.status_code for one in pictures] == [200, 200]
    assert pictures[0].content == pictures[1].content
    listed = second.get("/v1/decisions?tenant=shop&limit=1", headers=OPERATOR).json()["decisions"]
    assert [(one["id"], one["pictures"]) for one in listed] == [(made, found["pictures"])]


def test_pictures_that_are_only_shown_are_in_no_file(two: Two, clients: list[httpx.Client]) -> None:
    assert ask(two, clients[0], SHOP, 5).status_code == 200
    store = DecisionStore(DecisionsConfig(path=two.log.parent / "decisions.sqlite"))
    assert not any(one.pictures for one in store.page(Filters(), before=None, limit=500))
    store.close()


def test_metrics_are_those_of_both_workers(two: Two, clients: list[httpx.Client]) -> None:
    for client in clients:
        assert ask(two, client, SHOP, 6).status_code == 200
    decisions = clients[0].get("/v1/decisions?limit=500", headers=OPERATOR).json()["decisions"]
    for client in clients:
        # A worker says that it has finished a picture a moment after its answer.
        until(lambda client=client: counts_of(client)["working_pictures"] == 0)
        counts = counts_of(client)
        assert counts["pictures_total"] == counts["picture_seconds_count"] == len(decisions)
        assert counts["queries_total"] == sum(one["queries"] for one in decisions)
        assert counts["ready"] == counts["build_info"] == 1
        assert counts["waiting_pictures"] == counts["working_pictures"] == counts["upstream_retries_total"] == 0


def counts_of(client: httpx.Client) -> dict[str, float]:
    found = text_string_to_metric_families(client.get("/metrics", headers=OPERATOR).text)
    samples = [sample for family in found for sample in family.samples]
    return {name: sum(one.value for one in samples if one.name == f"maskrestore_{name}") for name in NAMES}


NAMES = ("pictures_total", "picture_seconds_count", "queries_total", "ready", "build_info", "waiting_pictures",
         "working_pictures", "upstream_retries_total")  # fmt: skip


def test_a_new_configuration_is_for_both_workers_and_a_bad_one_for_none(two: Two, clients: list[httpx.Client]) -> None:
    file = two.log.parent / "gateway.toml"
    before, key = file.read_text(), {"X-API-Key": SHOP}
    done = threading.Event()

    def load(client: httpx.Client) -> list[int]:
        statuses = []
        while not done.is_set():
            statuses.append(ask(two, client, SHOP, 7).status_code)
        return statuses

    def reloaded(words: str) -> bool:
        return any(words in line["message"] for line in two.lines())

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, client) for client in clients]
        try:
            file.write_text(before + '[models.more]\nclassifier = "no/such/file.onnx"\n')
            two.process.send_signal(signal.SIGHUP)
            until(lambda: reloaded("no worker could use it"))
            assert [two.ask(IMAGES[:1], "more", one, **key).status_code for one in two.clients()] == [404, 404]
            file.write_text(before + "workers = ")
            two.process.send_signal(signal.SIGHUP)
            until(lambda: reloaded("is no TOML file"))
            file.write_text(before + '[models.more]\nclassifier = "toy_colours:colours"\n')
            two.process.send_signal(signal.SIGHUP)
            read = "the configuration was read again"
            until(lambda: sum(line["message"] == read for line in two.lines()) == 2)
            assert [two.ask(IMAGES[:1], "more", one, **key).status_code for one in two.clients()] == [200, 200]
        finally:
            done.set()
    statuses = [status for one in loads for status in one.result()]
    assert len(statuses) > 2
    assert set(statuses) == {200}, "no request was dropped"


def test_kill_9_of_a_worker_under_load(two: Two) -> None:
    before = two.pids()
    with ThreadPoolExecutor(8) as pool:
        clients = {place: httpx.Client(timeout=60, trust_env=False) for place in range(len(IMAGES))}
        asked = {place: pool.submit(ask, two, client, SHOP, place) for place, client in clients.items()}
        until(lambda: sum(one.done() for one in asked.values()) >= 6)
        os.kill(before[0], signal.SIGKILL)
        answers = {place: one.exception() or one.result() for place, one in asked.items()}
    good = {place: one for place, one in answers.items() if isinstance(one, httpx.Response)}
    assert all(isinstance(one, httpx.Response | httpx.TransportError) for one in answers.values())
    assert {one.status_code for one in good.values()} == {200}
    assert {place: label(one) for place, one in good.items()} == {
        place: int(colour_labels(IMAGES[[place]])) for place in good
    }
    assert len(good) >= len(IMAGES) - 8, "only those that the worker had accepted have no answer"
    until(lambda: two.pids()[0] != before[0])
    assert two.pids()[1] == before[1]
    first, second = two.clients()
    kept = first.get("/v1/decisions?tenant=shop&limit=500", headers=OPERATOR).json()["decisions"]
    assert {one.headers["Maskrestore-Decision"] for one in good.values()} <= {one["id"] for one in kept}
    for client in (first, second):
        assert two.ask(IMAGES[:1], "more", client, **{"X-API-Key": SHOP}).status_code == 200, "the new configuration"
        assert ask(two, client, OFTEN, 0).status_code == 429, "the rate goes on"
        client.close()


def test_a_worker_that_hangs_is_replaced(two: Two) -> None:
    before = two.pids()
    os.kill(before[1], signal.SIGSTOP)
    until(lambda: two.pids()[1] != before[1])
    assert two.pids()[0] == before[0]
    (told,) = (line for line in two.lines() if line["message"] == "a worker does not respond, and is killed")
    assert (told["worker"], told["pid"]) == (1, before[1])
    for client in two.clients():
        assert ask(two, client, SHOP, 0).status_code == 200
        client.close()


def test_what_was_accepted_is_answered_before_the_end(two: Two) -> None:
    pids = two.pids()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(two.ask, IMAGES[[place]], **{"X-API-Key": SHOP}) for place in range(12, 24)]
        until(lambda: any(one.done() for one in asked))
        two.process.send_signal(signal.SIGTERM)
        answers = [one.exception() or one.result() for one in asked]
    assert two.process.wait(30) == 0
    good = [one for one in answers if isinstance(one, httpx.Response)]
    assert all(isinstance(one, httpx.Response | httpx.TransportError) for one in answers)
    assert {one.status_code for one in good} <= {200, 503}
    told = {one.headers["Maskrestore-Decision"] for one in good if one.status_code == 200}
    store = DecisionStore(DecisionsConfig(path=two.log.parent / "decisions.sqlite"))
    assert told <= {one.id for one in store.page(Filters(tenant="shop"), before=None, limit=500)}
    store.close()
    assert told
    assert not any(map(is_running, pids.values()))
    assert not list((two.log.parent / "temporary").glob("maskrestore-*"))
    text = two.log.read_text()
    assert "Traceback" not in text
    assert not any(secret in text for secret in ("a secret", SHOP, BOSS))


def test_workers_end_if_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    with program(tmp_path, CONFIG.replace("workers = 2", ""), "--workers", "2") as one:
        running = Two(one.process, one.address, one.log)
        answer = ask(running, httpx.Client(trust_env=False, timeout=60), SHOP, 0)
        assert answer.status_code == 200
        first, second = running.clients()
        found: Any = [each.get("/v1/decisions", headers=OPERATOR).json()["decisions"] for each in (first, second)]
        assert [one["id"] for one in found[0]] == [one["id"] for one in found[1]] == [
            answer.headers["Maskrestore-Decision"]
        ], "without a file, they have decisions in common, too"  # fmt: skip
        one.process.kill()
        until(lambda: not list((tmp_path / "temporary").glob("maskrestore-*")))
        until(lambda: not answers(one.address))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_three_workers_with_tls_and_traces(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    wanted = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(["openssl", *wanted.split(), *files], check=True, capture_output=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.host)
    server.faults = [says(200, b"", "application/x-protobuf")]
    options = [
        "--workers",
        "3",
        "--tls-certificate",
        "certificate.pem",
        "--tls-key",
        "key.pem",
        "--proxies",
        "127.0.0.1",
    ]
    with program(tmp_path, CONFIG.replace("workers = 2", ""), *options) as one:
        assert one.address.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        asked = []
        for place in range(12):
            with httpx.Client(timeout=60, trust_env=False, verify=trusting) as client:
                headers = {"X-API-Key": SHOP, "X-Forwarded-For": "203.0.113.7"}
                asked.append(one.ask(IMAGES[[place]], client=client, **headers))
        assert [label(answer) for answer in asked] == colour_labels(IMAGES[:12]).tolist()
        assert len({int(answer.headers["Maskrestore-Request"], 16) % 3 for answer in asked}) > 1
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(60) == 0
        clients = {line["client"] for line in one.lines() if str(line.get("route")).endswith("/infer")}
        assert clients == {"203.0.113.7"}, "the address that the proxy told"
    sent = [gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for body in server.bodies]
    assert sum(body.count(b"maskrestore.purify") for body in sent) == 12, "each worker sent its traces before it ended"


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/live", trust_env=False).is_success
    except httpx.TransportError:
        return False


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
