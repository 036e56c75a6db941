"""A real MLServer behind the gateway, a real ``tritonclient`` before it, and schemathesis on its description.

``MASKRESTORE_TEST_SCHEMATHESIS`` names a folder for an environment with it; it is made there with pip if there is none.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.mlserver import free_port

from fakes import colour_labels, plain_images
from gateway_runner import Running
from mlserver_runner import environment_with

CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colours")
(declared,) = client.get_model_metadata("colours")["outputs"]
pictures = np.load(sys.argv[2])
found = [declared["shape"]]
for binary in (True, False):
    picture = http.InferInput("image", list(pictures.shape), "FP32")
    picture.set_data_from_numpy(pictures, binary_data=binary)
    wanted = None if binary else [http.InferRequestedOutput("scores", binary_data=False)]
    answer = client.infer("colours", [picture], outputs=wanted, request_id="7", timeout=20_000_000)
    assert answer.get_response()["id"] == "7"
    found.append(answer.as_numpy("scores").argmax(axis=1).tolist())
try:
    client.infer("colours", [picture], priority=3)
except Exception as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.mlserver
@pytest.mark.parametrize("scores", ["one-hot", "upstream"])
def test_tritonclient_before_the_gateway_before_mlserver(
    host: str, mlserver_python: Path, gateway: Callable[..., Running], tmp_path: Path, scores: str
) -> None:
    import numpy as np

    running = gateway({"classifier": f"{host}/colours", "scores": scores})
    images = plain_images(5)
    np.save(tmp_path / "pictures.npy", images.numpy())
    command = [mlserver_python, "-c", CLIENT, running.address.removeprefix("http://"), tmp_path / "pictures.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    shape, in_bytes, in_json, refused = json.loads(done.stdout)
    assert shape == [-1, 8]
    assert in_bytes == in_json == colour_labels(images).tolist()
    assert "[400]" in refused
    assert "priority" in refused


GUIDE = Path(__file__).parents[2] / "docs/guides/gateway.md"


@pytest.mark.mlserver
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_five_commands_of_the_guide_shield_a_running_server(host: str, tmp_path: Path) -> None:
    section = GUIDE.read_text().partition("## From a running server to a shielded one")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 5
    port, image = free_port(), plain_images(1)
    upstream = ("http://localhost:8000/v2/models/signs", f"{host}/colours")
    install, key, serve, ask, look = (
        line.replace(*upstream).replace("models/signs", "models/colours").replace(":8080", f":{port}") for line in lines
    )
    assert install == "pip install 'maskrestore[gateway]'", "the environment of the tests has it"
    entry = {"name": "image", "datatype": "FP32", "shape": list(image.shape), "data": image.flatten().tolist()}
    (tmp_path / "request.json").write_text(json.dumps({"inputs": [entry]}))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sources = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PATH": programs, "PYTHONPATH": sources}

    def run(command: str) -> str:
        return subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout  # fmt: skip

    run(key)
    with (tmp_path / "log").open("w") as log:
        gateway = subprocess.Popen(
            f"exec {serve} --port {port}", shell=True, cwd=tmp_path, env=environment, stdout=log, stderr=log
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not run(f"curl -s http://localhost:{port}/v2/health/ready || true").startswith('{"ready":true'):
            assert gateway.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        (scores,) = json.loads(run(ask))["outputs"]
        label = int(colour_labels(image))
        assert scores["data"].index(1.0) == label
        (decision,) = json.loads(run(look))["decisions"]
        assert (decision["label"], decision["shielded"]) == (label, True)
    finally:
        gateway.terminate()
        assert gateway.wait(30) == 0, (tmp_path / "log").read_text()


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.mlserver
def test_the_description_is_true_of_every_answer(gateway: Callable[..., Running], tmp_path: Path) -> None:
    program = environment_with("schemathesis>=4", "MASKRESTORE_TEST_SCHEMATHESIS") / "schemathesis"
    running = gateway()
    # The stream of decisions does not end by itself.
    options = ["--max-examples", "10", "--exclude-path", "/v1/decisions/stream", "--checks", CHECKS, "--no-color"]
    done = subprocess.run(
        [program, "run", f"{running.address}/openapi.json", *options],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert running.client.get("/v2/health/live").status_code == 200
