"""The gateway on a real cluster of Ray: a second replica comes with the load, and goes with it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")

from benchmarks.mlserver import free_port

from gateway_clients import CLEAN, WITHIN, png
from gateway_program import until
from maskrestore.distributed.serve import app
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.decisions import DecisionStore, Filters
from serve_replicas import replicas

QUICK = {"upscale_delay_s": 1, "downscale_delay_s": 1, "look_back_period_s": 11}
"""By itself, Serve waits half a minute before it starts replicas, and ten minutes before it ends some. It hears of the
load every ten seconds."""
MANY = 8
"""Clients: twice as many as one replica should have at a time."""


@pytest.mark.cluster
def test_replicas_follow_the_load_and_no_request_is_lost(cluster: Any, tmp_path: Path) -> None:
    from ray import serve

    path, port = tmp_path / "decisions.sqlite", free_port()
    made = app({"config": {"models": {"signs": WITHIN}, "decisions": {"path": path}}, "replicas": "1:2"})
    gateway = made._bound_deployment
    scaling = gateway._deployment_config.autoscaling_config.model_dump(exclude_unset=True)
    quick = gateway.options(autoscaling_config={**scaling, **QUICK}).bind(*gateway.init_args)
    calm, over = threading.Event(), threading.Event()
    answers: list[httpx.Response] = []

    def ask(end: threading.Event) -> None:
        while not end.is_set():
            url = f"http://127.0.0.1:{port}/v1/purify"
            answers.append(httpx.post(url, content=png(CLEAN[0]), timeout=60, trust_env=False))

    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(quick, name="maskrestore", route_prefix="/")
    try:
        assert len(replicas()) == 1
        with ThreadPoolExecutor(MANY) as pool:
            clients = [pool.submit(ask, end) for end in [over] + [calm] * (MANY - 1)]
            try:
                until(lambda: len({there(one) for one in answers}) == 2)
                assert len(replicas()) == 2
                calm.set()
                until(lambda: len(replicas()) == 1)
            finally:
                calm.set()
                over.set()
        assert [one.exception() for one in clients] == [None] * MANY
    finally:
        serve.shutdown()
    assert {one.status_code for one in answers} == {200}
    store = DecisionStore(DecisionsConfig(path=path))
    kept = {one.id for one in store.page(Filters(), before=None, limit=100_000)}
    store.close()
    assert {one.json()["decision"]["id"] for one in answers} == kept


def there(answer: httpx.Response) -> str:
    """Ids of requests end with digits of their replica."""
    return answer.headers["Maskrestore-Request"][14:]
