"""A real MLServer, in an environment of its own, since its pins do not fit ours.

``MASKRESTORE_TEST_MLSERVER`` names a folder for that environment; it is made there with pip if there is none.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.mlserver import running_mlserver

MODEL = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse


class Colours(MLModel):
    async def predict(self, payload):
        pictures = NumpyCodec.decode_input(payload.inputs[0])
        bright = pictures.astype("float64").mean(axis=(2, 3)) > 0.5
        labels = (bright << np.arange(3)).sum(axis=1)
        outputs = [NumpyCodec.encode_output("scores", np.eye(8, dtype="float32")[labels])]
        if self.name == "names":
            outputs = [StringCodec.encode_output("names", [f"colour {label}" for label in labels])]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""
IMAGE = {"name": "image", "datatype": "FP32", "shape": [-1, 3, 16, 16]}
MODELS = {
    "colours": {"inputs": [IMAGE], "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 8]}]},
    "names": {"inputs": [IMAGE], "outputs": [{"name": "names", "datatype": "BYTES", "shape": [-1, 1]}]},
    "silent": {},
}


def environment_with(requirement: str, variable: str) -> Path:
    """The programs of an environment with a package, made with pip if there is none. Skips without such a folder.

    variable: of the environment, names its folder.
    """
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"set {variable} to a folder for an environment with {requirement}")
    programs = Path(folder) / "bin"
    done = Path(folder) / ".installed"  # not there if pip was stopped half-way
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", requirement], check=True)
        done.touch()
    return programs


@pytest.fixture(scope="session")
def mlserver_python() -> Path:
    """The interpreter of the environment."""
    return environment_with("mlserver>=1.7", "MASKRESTORE_TEST_MLSERVER") / "python"


@pytest.fixture(scope="session")
def host(mlserver_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "colours.py").write_text(MODEL)
    for name, described in MODELS.items():
        (folder / name).mkdir()
        settings = {"name": name, "implementation": "colours.Colours", **described}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    with running_mlserver(folder, mlserver_python.parent.parent) as address:
        yield f"{address}/v2/models"
