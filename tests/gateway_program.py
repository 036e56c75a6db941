"""``maskrestore serve`` as a program of its own, with a model in it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

MODEL = """
import torch

def colours(images):
    bright = images.double().mean(dim=(2, 3)) > 0.5
    return (bright.long() << torch.arange(3)).sum(dim=1)
"""

CONFIG = """
restorer = "mae-tiny-32"
[models.colours]
classifier = "toy_colours:colours"
class_count = 8
[decisions]
path = "decisions.sqlite"
"""
"""Of a gateway with that model."""


class Program:
    """A process, its address, and what it wrote."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process, self.address, self.log = process, address, log

    def ask(self, images: torch.Tensor, model: str = "colours", client: Any = None, **headers: str) -> httpx.Response:
        """Send pictures to a model. client: of ``httpx``; if not given, over a connection of their own."""
        entry = {"name": "input-0", "datatype": "FP32", "shape": list(images.shape), "data": images.flatten().tolist()}
        url, body = f"{self.address}/v2/models/{model}/infer", {"inputs": [entry]}
        if client is not None:
            return client.post(url, json=body, headers=headers)  # type: ignore[no-any-return]
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def program(folder: Path, config: str, *options: str) -> Iterator[Program]:
    """Runs it meanwhile, in a folder where ``gateway.toml`` holds the configuration, if it is not there already."""
    (folder / "toy_colours.py").write_text(MODEL)
    (folder / "temporary").mkdir(exist_ok=True)
    if not (folder / "gateway.toml").exists():
        (folder / "gateway.toml").write_text(config)
    log = folder / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([p for p in sys.path if p]),
        "MASKRESTORE_KEY": "a secret",
        "TMPDIR": str(folder / "temporary"),
    }
    command = [sys.executable, "-m", "maskrestore", "serve", "--config", "gateway.toml", "--port", "0", *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=file, text=True
        )  # fmt: skip
    try:
        found: list[str] = []

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            found[:] = re.findall(r'"address": "(https?://\S+)"', log.read_text())
            return bool(found)

        until(listens)
        yield Program(process, found[0], log)
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], object], seconds: float = 180) -> None:
    """Wait until something is so; fails if it is not in time, which is long for machines that have much else to do."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.02)
