"""What is checked before a gateway starts on a cluster, without one."""

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")

from maskrestore.cli.app import app as program
from maskrestore.distributed.hub import Hub
from maskrestore.distributed.serve import Replicas, app, plan_of
from maskrestore.distributed.serving import serve_on_ray
from maskrestore.errors import ConfigError
from maskrestore.gateway.board import Report
from maskrestore.gateway.config import DecisionsConfig, GatewayConfig, LimitsConfig
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.process import Listening

VALUES: dict[str, Any] = {
    "models": {"signs": {"classifier": "http://host/v2/models/signs"}},
    "decisions": {"path": "decisions.sqlite"},
}


def config(**more: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({**VALUES, **more})


@pytest.mark.parametrize(("text", "least", "most"), [("2", 2, 2), ("1:8", 1, 8), (" 3:3 ", 3, 3)])
def test_numbers_of_replicas(text: str, least: int, most: int) -> None:
    assert Replicas.parsed(text) == Replicas(least=least, most=most)


@pytest.mark.parametrize("text", ["", "0", "3:2", "a", "1:", "-1", "1:2:3"])
def test_what_is_no_number_of_replicas(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number such as 2, or a range"):
        Replicas.parsed(text)


def test_options_of_serve_follow_the_limits(tmp_path: Path) -> None:
    limits = {"timeout": 60, "connections": 77}
    found = app({"config": {**VALUES, "limits": limits}, "replicas": "1:8"})._bound_deployment
    assert found.name == "gateway"
    assert found.max_ongoing_requests == 77
    assert found._deployment_config.graceful_shutdown_timeout_s > LimitsConfig(**limits).timeout
    scaling = found._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (30, 600), "as the guide says"
    assert app({"config": VALUES, "replicas": 3})._bound_deployment.num_replicas == 3


def test_a_file_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        '[models.signs]\nclassifier = "http://host/v2/models/signs"\n[decisions]\npath = "d.sqlite"\n'
    )
    (plan,) = app({"config": str(tmp_path / "gateway.toml")})._bound_deployment.init_args
    assert plan.config.decisions.path == tmp_path / "d.sqlite"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "expected config"),
        ({"config": VALUES, "key": "secret"}, "expected config"),
        ({"config": {**VALUES, "decisions": {}}}, "give decisions.path for one machine"),
        ({"config": {**VALUES, "model": 1}}, "args.config: model"),
        ({"config": VALUES, "replicas": "many"}, "expected a number"),
        ({"config": "/no/such/file"}, "cannot read"),
    ],
)
def test_mistakes_in_the_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        app(args)
    assert "secret" not in str(caught.value)


def test_the_key_is_read_on_each_machine_and_must_be_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("a secret of the operator\n")
    plan = plan_of(config(), file)
    assert plan.key() == b"a secret of the operator"
    assert b"a secret" not in pickle.dumps(plan)
    assert "a secret" not in repr(plan)
    file.write_text("another one")
    with pytest.raises(ConfigError, match="is not the one that the gateway was started with") as caught:
        plan.key()
    assert "another" not in str(caught.value)
    monkeypatch.setenv("MASKRESTORE_KEY", "of the variable")
    plan = plan_of(config(), None)
    monkeypatch.delenv("MASKRESTORE_KEY")
    with pytest.raises(ConfigError, match="must be set before `ray start`"):
        plan.key()


def test_files_are_named_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()
    models = {"a": {"classifier": "model.onnx"}, "b": {"classifier": "package.models:signs"}}
    found = plan_of(config(models={**VALUES["models"], **models}), None).config
    assert {name: one.classifier for name, one in found.models.items()} == {
        "signs": "http://host/v2/models/signs", "a": str(tmp_path / "model.onnx"), "b": "package.models:signs"
    }  # fmt: skip
    assert found.decisions.path == tmp_path / "decisions.sqlite"


def test_what_a_replica_had_reserved_counts_as_spent_when_it_is_silent() -> None:
    hub = Hub(DecisionsConfig())
    for worker in "ab":
        hub.ask("board", "report", (Report(worker=worker, models=[]),), {})
        hub.ask("ledger", "admit", ("shop", 1, 20), {"rate": None, "most": 100, "worker": worker})
    assert hub.forget_silent(time.monotonic()), "both are there"
    assert hub.ask("board", "report", (Report(worker="a", models=[]),), {}) == [Report(worker="b", models=[])]
    assert not hub.forget_silent(time.monotonic() + 60)
    assert hub.ask("board", "report", (Report(worker="c", models=[]),), {}) == []
    with pytest.raises(RefusedError, match="60 of 100 queries"):
        hub.ask("ledger", "admit", ("shop", 1, 61), {"rate": None, "most": 100, "worker": "c"})


def test_without_keys_only_the_loopback() -> None:
    with pytest.raises(ConfigError, match=r"on the loopback only, and 0\.0\.0\.0 is not"):
        serve_on_ray(config(), Listening(host="0.0.0.0"), address="local", replicas=Replicas(), key_file=None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--replicas", "2"], "--replicas belongs to --ray"),
        (["--ray", "local", "--workers", "2"], "--replicas instead of --workers"),
        (["--ray", "local", "--port", "0"], "a port other than 0"),
        (["--ray", "local", "--replicas", "none"], "expected a number such as 2"),
        (["--ray", "local", "--proxies", "10.0.0.1"], "--proxies is not for --ray"),
    ],
)
def test_mistakes_on_the_command_line(options: list[str], words: str) -> None:
    given = ["serve", "--classifier", "a.onnx", *options]
    result = CliRunner().invoke(program, given, env={"COLUMNS": "200", "MASKRESTORE_KEY": "a secret"})
    assert result.exit_code == 2
    assert words in result.stderr
