"""The files of ``deploy/`` agree with the gateway: options, ports, paths, configuration, extras."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("fastapi", reason="needs the extra gateway")

from maskrestore.gateway.config import GatewayConfig, checked_config, read_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CONTAINER = (DEPLOY / "Containerfile").read_text()
UNIT = (DEPLOY / "maskrestore.service").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
RAY = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text())}
KUBERNETES = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
USER = 65532


def instruction(name: str) -> str:
    """The last instruction of the Containerfile with a name, its lines joined."""
    joined = CONTAINER.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)[-1]


def serve() -> dict[str, Any]:
    """The options of ``maskrestore serve`` by their names, and their defaults."""
    import typer

    from maskrestore.cli.app import app

    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {name: one.default for one in command.params for name in one.opts}


def paths() -> set[str]:
    from maskrestore.gateway import inference_routes

    return {getattr(route, "path", "") for route in inference_routes.router.routes}


def the_container() -> dict[str, Any]:
    (container,) = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def arguments() -> dict[str, list[str]]:
    """What ``maskrestore serve`` gets, by file."""
    unit = re.search(r"^ExecStart=\S+ serve (.*)$", UNIT, re.MULTILINE)
    assert unit
    return {"Containerfile": yaml.safe_load(instruction("CMD")), "unit": shlex.split(unit[1])}


@pytest.mark.parametrize("file", ["Containerfile", "unit"])
def test_every_option_exists_and_the_port_is_the_same(file: str) -> None:
    known, given = serve(), arguments()[file]
    options = {one for one in given if one.startswith("--")}
    assert options >= {"--config", "--key-file", "--port"}
    assert options <= set(known)
    assert given[given.index("--port") + 1] == str(known["--port"])
    assert given[given.index("--config") + 1] == "/etc/maskrestore/gateway.toml"


def test_ports_are_the_gateways() -> None:
    port = serve()["--port"]
    assert instruction("EXPOSE") == str(port)
    assert COMPOSE["services"]["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (named,) = the_container()["ports"]
    assert named["containerPort"] == port
    (open_port,) = KUBERNETES["Service"]["spec"]["ports"]
    assert open_port["targetPort"] == named["name"]


def test_health_is_asked_for_where_the_gateway_tells_it() -> None:
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", instruction("HEALTHCHECK"))
    assert asked == (str(serve()["--port"]), "/v2/health/live")
    probes = {name: the_container()[name]["httpGet"]["path"] for name in the_container() if name.endswith("Probe")}
    assert probes == {
        "startupProbe": "/v2/health/live", "livenessProbe": "/v2/health/live", "readinessProbe": "/v2/health/ready",
    }  # fmt: skip
    assert {asked[1], *probes.values()} <= paths()


def configurations() -> dict[str, GatewayConfig]:
    text = KUBERNETES["ConfigMap"]["data"]["gateway.toml"]
    return {
        "file": read_config(DEPLOY / "gateway.toml"),
        "kubernetes": checked_config(tomllib.loads(text), "kubernetes.yaml"),
    }


@pytest.mark.parametrize("name", ["file", "kubernetes"])
def test_configurations_are_valid_and_keep_decisions_where_there_is_a_volume(name: str) -> None:
    config = configurations()[name]
    assert config.decisions.path is not None
    folder = str(config.decisions.path.parent)
    assert f"VOLUME {folder}\n" in CONTAINER
    assert f"WorkingDirectory={folder}\n" in UNIT
    assert f"decisions:{folder}" in COMPOSE["services"]["gateway"]["volumes"]
    mounted = {one["name"]: one["mountPath"] for one in the_container()["volumeMounts"]}
    assert mounted["decisions"] == folder
    upstream = config.models["signs"].classifier
    host = upstream.split("/")[2].partition(":")[0]
    known = COMPOSE["services"] if name == "file" else ["signs-predictor"]
    assert host in known


def test_the_grace_at_the_end_is_longer_than_a_request() -> None:
    most = max(config.limits.timeout for config in configurations().values()) + 5
    stop = int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0])
    compose = int(COMPOSE["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    pods = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert min(stop, compose, pods) > most


def test_the_secret_key_is_where_the_program_looks_for_it() -> None:
    given = arguments()["Containerfile"]
    path = Path(given[given.index("--key-file") + 1])
    (secret,) = COMPOSE["services"]["gateway"]["secrets"]
    assert path == Path("/run/secrets") / secret
    assert secret in COMPOSE["secrets"]
    mounted = {one["name"]: one["mountPath"] for one in the_container()["volumeMounts"]}
    volumes = {one["name"]: one for one in KUBERNETES["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    (item,) = volumes["key"]["secret"]["items"]
    assert path == Path(mounted["key"]) / item["path"]
    assert item["key"] in KUBERNETES["Secret"]["stringData"]
    credential, _ = re.findall(r"^LoadCredential=(\w+):(\S+)$", UNIT, re.MULTILINE)[0]
    assert f"--key-file %d/{credential}" in UNIT


def test_nothing_runs_as_root_or_may_write_outside_its_state() -> None:
    assert instruction("USER") == f"{USER}:{USER}"
    pod, container = KUBERNETES["Deployment"]["spec"]["template"]["spec"], the_container()
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, USER)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert COMPOSE["services"]["gateway"]["read_only"] is True
    assert {"DynamicUser=yes", "ProtectSystem=strict", "StateDirectory=maskrestore"} <= set(UNIT.splitlines())


def test_the_image_is_pinned_to_a_version_of_python_that_is_tested_and_installs_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bases = re.findall(r"^FROM python:(\d+\.\d+)\.\d+-\S+", CONTAINER, re.MULTILINE)
    assert len(bases) == CONTAINER.count("\nFROM ") == 2
    assert all(f"Programming Language :: Python :: {one}" in project["classifiers"] for one in bases)
    extras = re.findall(r"/source\[([\w,]+)\]", CONTAINER)[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    sent = set(re.findall(r"^!(\S+)$", (DEPLOY / "Containerfile.dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.MULTILINE)
    assert {one for line in copied for one in line.split()[:-1]} == sent
    assert all((ROOT / one).exists() for one in sent)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "maskrestore.service"
    unit.write_text(UNIT.replace("/opt/maskrestore/bin/maskrestore", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gateway_on_ray_starts_with_its_example() -> None:
    pytest.importorskip("ray.serve", reason="needs the extra ray-serve")
    from maskrestore.distributed.serve import Replicas, app
    from maskrestore.gateway.server import check_open

    config = yaml.safe_load(RAY["RayService"]["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == f"{app.__module__}:{app.__name__}"
    args = application["args"]
    found = checked_config(args["config"], "rayservice.yaml")
    assert found.decisions.url is not None, "machines share no file"
    check_open(found, config["http_options"]["host"])
    assert Replicas.parsed(args["replicas"]).most > 1
    (deployment,) = application["deployments"]
    cluster = RAY["RayService"]["spec"]["rayClusterConfig"]
    pods = [one["template"]["spec"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["containers"]
        (mounted,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        (item,) = volume["secret"]["items"]
        assert Path(args["key_file"]) == Path(mounted["mountPath"]) / item["path"]
        named = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef", {}).get("key") for one in container["env"]}
        assert {item["key"], named["PGPASSWORD"]} == set(RAY["Secret"]["stringData"])
        assert pod["terminationGracePeriodSeconds"] > found.limits.timeout + 5
    cpus = int(pods[1]["containers"][0]["resources"]["limits"]["cpu"])
    assert cpus >= deployment["ray_actor_options"]["num_cpus"]


def test_the_example_of_the_guide_for_serve_is_valid() -> None:
    pytest.importorskip("ray.serve", reason="needs the extra ray-serve")
    from maskrestore.distributed import serve

    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/guides/gateway-on-ray.md").read_text(), re.M | re.S)
    config = yaml.safe_load(block)
    (application,) = config["applications"]
    assert application["import_path"] == f"{serve.__name__}:{serve.app.__name__}"
    assert set(application["args"]) == serve.ARGUMENTS
    assert [one["name"] for one in application["deployments"]] == [serve.DEPLOYMENT]
