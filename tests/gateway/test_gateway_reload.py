"""The configuration is read again while requests go on."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from fakes import plain_images
from faulty_server import Server, slow
from gateway_runner import Running
from maskrestore.errors import ConfigError
from maskrestore.gateway.access import new_key
from maskrestore.gateway.config import GatewayConfig
from maskrestore.runtime.digests import digest_of_key

Start = Callable[..., Running]
IMAGE = plain_images(1)


def ask(running: Running, model: str = "colours", **headers: str) -> Any:
    entry = {"name": "image", "datatype": "FP32", "shape": list(IMAGE.shape), "data": IMAGE.flatten().tolist()}
    return running.client.post(f"/v2/models/{model}/infer", json={"inputs": [entry]}, headers=headers)


def test_models_and_keys_change_and_what_did_not_change_stays(server: Server, gateway: Start) -> None:
    key = new_key()
    one = {"classifier": server.address, "patience": 0.0}
    first = {"models": {"colours": one}}
    second = {
        "models": {"colours": one, "more": {**one, "scores": "labels"}},
        "tenants": {"shop": {"key_hash": digest_of_key(key)}},
        "operator": {"key_hash": digest_of_key(new_key())},
    }
    third = {**second, "models": {"more": {**one, "scores": "labels"}}}
    config = [first]
    running = gateway(read_config=lambda: GatewayConfig.model_validate(config[0]))
    model = running.gateway.slots["colours"].model
    assert ask(running, "more").status_code == 404
    config[0] = second
    assert running.call(running.gateway.reload())
    assert running.gateway.slots["colours"].model is model, "it is not loaded again"
    assert ask(running).status_code == 401
    found = ask(running, "more", **{"X-API-Key": key})
    assert found.json()["outputs"][0]["name"] == "scores"
    assert found.json()["outputs"][0]["datatype"] == "INT64"
    config[0] = third
    assert running.call(running.gateway.reload())
    assert ask(running, **{"X-API-Key": key}).status_code == 404


def test_what_holds_from_the_next_start_on_is_said(
    server: Server, gateway: Start, caplog: pytest.LogCaptureFixture
) -> None:
    models = {"models": {"colours": {"classifier": server.address, "patience": 0.0}}}
    config = {**models, "restorer": "mae-tiny-32", "decisions": {"recent": 7}}
    running = gateway(read_config=lambda: GatewayConfig.model_validate(config))
    for _ in range(2):
        assert running.call(running.gateway.reload())
        assert [one.getMessage() for one in caplog.records if "next start" in one.getMessage()] == [
            "changes of these settings hold from the next start on: decisions, restorer"
        ]
        caplog.clear()


def test_requests_that_have_begun_end_with_what_they_began_with(server: Server, gateway: Start) -> None:
    from concurrent.futures import ThreadPoolExecutor

    changed = {"classifier": server.address, "patience": 0.0, "scores": "labels"}
    running = gateway(read_config=lambda: GatewayConfig.model_validate({"models": {"colours": changed}}))
    server.faults = [slow(0.5), None]
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(ask, running)
        end = time.monotonic() + 10
        while server.asked == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert running.call(running.gateway.reload())
        new = ask(running)
        assert new.json()["outputs"][0]["datatype"] == "INT64"
        assert old.result(20).status_code == 200
        assert old.result().json()["outputs"][0]["datatype"] == "FP32"


@pytest.mark.parametrize(
    "error", [ConfigError("no TOML file"), OSError("no file"), ConfigError("models.colours.mean: a number")]
)
def test_a_configuration_with_an_error_changes_nothing(server: Server, gateway: Start, error: Exception) -> None:
    def broken() -> GatewayConfig:
        raise error

    running = gateway(read_config=broken)
    assert running.call(running.gateway.reload()) is False
    assert ask(running).status_code == 200


def test_a_model_that_cannot_be_loaded_changes_nothing(server: Server, gateway: Start) -> None:
    values = {"models": {"colours": {"classifier": server.address}, "file": {"classifier": "no/such/file.onnx"}}}
    running = gateway(read_config=lambda: GatewayConfig.model_validate(values))
    assert running.call(running.gateway.reload()) is False
    assert set(running.gateway.slots) == {"colours"}
    assert ask(running).status_code == 200
