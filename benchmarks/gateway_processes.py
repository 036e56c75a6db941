"""The processes of ``benchmarks.gateway``: a gateway, and an MLServer that runs the model behind it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.mlserver import running_mlserver

from maskrestore.gateway.access import new_key
from maskrestore.lab.victims import load_packaged_victim
from maskrestore.runtime.digests import digest_of_key

__all__ = ["KEYS", "Running", "mlserver", "serving"]

KEYS = {name: new_key() for name in ("modest", "greedy", "operator")}
_MODEL = """
from maskrestore.lab.victims import load_packaged_victim

network = load_packaged_victim("signs-badnets").network
"""
_CONFIG = """
restorer = "mae-tiny-32"
[limits]
timeout = 120
[decisions]
path = "decisions.sqlite"
[models.signs]
"""
_TENANTS = "\n".join(
    f'[{"" if name == "operator" else "tenants."}{name}]\nkey_hash = "{digest_of_key(key)}"'
    for name, key in KEYS.items()
)
_RUNTIME = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Signs(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession("signs.onnx")
        return True

    async def predict(self, payload):
        (scores,) = self.session.run(None, {"image": NumpyCodec.decode_input(payload.inputs[0])})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A gateway that answers."""

    infer: str
    """Address of its model."""
    pid: int

    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) / 1024


@contextmanager
def serving(upstream: str | None) -> Iterator[Running]:
    """A gateway in a process of its own, with the packaged victim in it or in front of the given address."""
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w") as log:
        folder = Path(name)
        (folder / "benchmark_model.py").write_text(_MODEL)
        model = upstream or "benchmark_model:network"
        (folder / "gateway.toml").write_text(f'{_CONFIG}classifier = "{model}"\n{_TENANTS}\n')
        path = os.pathsep.join(filter(None, [str(Path.cwd() / "src"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "MASKRESTORE_KEY": "benchmark", "PYTHONPATH": path}
        command = [sys.executable, "-m", "maskrestore", "serve", "--config", "gateway.toml", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            while not (found := re.search(r'"address": "(http://\S+)"', (folder / "log").read_text())):
                if process.poll() is not None:
                    raise SystemExit((folder / "log").read_text())
                time.sleep(0.1)
            yield Running(infer=f"{found[1]}/v2/models/signs/infer", pid=process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def mlserver(environment: Path) -> Iterator[str]:
    """MLServer with the packaged victim in ONNX Runtime; yields the address of the model.

    environment: a virtual environment with ``mlserver`` and ``onnxruntime``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "signs_model.py").write_text(_RUNTIME)
        export(folder / "signs.onnx")
        classes = len(load_packaged_victim("signs-badnets").class_names)
        described = {
            "name": "signs",
            "implementation": "signs_model.Signs",
            "inputs": [{"name": "input-0", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, classes]}],
        }
        (folder / "model-settings.json").write_text(json.dumps(described))
        with running_mlserver(folder, environment) as address:
            yield f"{address}/v2/models/signs"


def export(path: Path) -> None:
    """Write the packaged victim as an ONNX file with one input, "image"."""
    network = load_packaged_victim("signs-badnets").network
    torch.onnx.export(
        network, (torch.zeros(1, 3, 32, 32),), path, dynamo=False, input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip
