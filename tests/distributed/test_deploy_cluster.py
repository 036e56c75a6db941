"""The examples of ``deploy/`` for clusters agree with Ray's schema and with the command line."""

import json
import shlex
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from maskrestore.cli.app import app, with_addresses

DEPLOY = Path(__file__).parents[2] / "deploy"
UP = (DEPLOY / "ray-cluster.yaml").read_text()
JOB = yaml.safe_load((DEPLOY / "kuberay-job.yaml").read_text())


def test_ray_up_takes_the_file() -> None:
    schema = json.loads(resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load(UP), schema)


def commands() -> list[list[str]]:
    """The words of the commands of both examples."""
    comment = UP.rpartition("maskrestore purify ")[2].partition('"')[0].replace("\\\n#", " ")
    return [shlex.split(JOB["spec"]["entrypoint"])[2:], shlex.split(comment)]


@pytest.mark.parametrize("words", commands())
def test_the_command_line_takes_the_commands(words: list[str]) -> None:
    command = typer.main.get_command(app).commands["purify"]  # type: ignore[attr-defined]
    given = command.make_context("purify", with_addresses(words)).params
    assert given["ray"] == "auto"
    assert given["key_file"] is not None


def test_the_files_that_the_job_names_are_mounted() -> None:
    spec = JOB["spec"]["rayClusterSpec"]
    words = shlex.split(JOB["spec"]["entrypoint"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert set(places) == {one["name"] for one in pod["volumes"]}
        for option in ("--classifier", "--key-file"):
            assert str(Path(words[words.index(option) + 1]).parent) in places.values()
