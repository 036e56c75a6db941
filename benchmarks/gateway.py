"""How much the gateway costs beside the library, and what a greedy tenant does to another.

    python -m benchmarks.gateway --out benchmarks/results/speed/gateway.json

The gateway is a process of its own with the model in it (``mae-tiny-32``, profile ``fast``, a half-width ResNet-18),
clients are threads of this one. Pictures are noise. Measures, in turns with the library so that both see the same
machine: images a second in one run and with 64 clients; the seconds of one image alone; those of one client of a modest
tenant, while another tenant has as many clients and while it has ten times as many.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from maskrestore import BDMAE, ModuleClassifier  # isort: skip - before PyTorch: it limits how long threads spin
import torch

from maskrestore.classifiers.open_inference_messages import write_message
from maskrestore.gateway.access import new_key
from maskrestore.lab.victims import ResNet18
from maskrestore.runtime.digests import digest_of_key
from maskrestore.runtime.environment import current_environment

MODEL = """
import torch
from maskrestore.lab.victims import ResNet18

torch.manual_seed(0)
network = ResNet18(10, width=32).eval()
"""
KEYS = {name: new_key() for name in ("modest", "greedy", "operator")}
CONFIG = """
restorer = "mae-tiny-32"
[limits]
timeout = 120
[models.noise]
classifier = "benchmark_model:network"
class_count = 10
""" + "\n".join(
    f'[{"" if name == "operator" else "tenants."}{name}]\nkey_hash = "{digest_of_key(key)}"'
    for name, key in KEYS.items()
)
CLIENTS = 64
ALONE = 30
"""Images that are sent one after the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each measurement of tenants")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (arguments.images, 3, 32, 32), generator=generator) / 255
    torch.manual_seed(0)
    classifier, defense = ModuleClassifier(ResNet18(10, width=32)), BDMAE("mae-tiny-32", "fast", key="benchmark")
    defense.purify(images[:4], classifier)
    rows: list[dict[str, float]] = []
    with serving() as address, httpx.Client(timeout=120, trust_env=False) as client:
        ask(client, address, images[0], "modest")
        for _ in range(arguments.repeats):
            library = rate(lambda: defense.purify(images, classifier), len(images))
            gateway = rate(lambda: ask_all(client, address, images), len(images))
            pairs = [
                (seconds(lambda image=image: defense.purify(image, classifier)),
                 seconds(lambda image=image: ask(client, address, image, "modest")))
                for image in images[:ALONE]
            ]  # fmt: skip
            shares = {count: modest_seconds(address, images, count, arguments.seconds) for count in (1, 10)}
            rows.append(
                {
                    "library_images_per_second": library,
                    "gateway_images_per_second": gateway,
                    "library_seconds_alone": statistics.median(one for one, _ in pairs),
                    "gateway_seconds_alone": statistics.median(one for _, one in pairs),
                    "modest_seconds_beside_1_client": shares[1],
                    "modest_seconds_beside_10_clients": shares[10],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    record: dict[str, Any] = {
        "benchmark": "gateway", "images": len(images), "clients": CLIENTS, "rows": rows,
        "environment": dataclasses.asdict(current_environment()),
    }  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


@contextmanager
def serving() -> Iterator[str]:
    """A gateway in a process of its own; yields the address of its model."""
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w") as log:
        folder = Path(name)
        (folder / "benchmark_model.py").write_text(MODEL)
        (folder / "gateway.toml").write_text(CONFIG)
        path = os.pathsep.join(filter(None, [str(Path.cwd() / "src"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "MASKRESTORE_KEY": "benchmark", "PYTHONPATH": path}
        command = [sys.executable, "-m", "maskrestore", "serve", "--config", "gateway.toml", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            while not (found := re.search(r'"address": "(http://\S+)"', (folder / "log").read_text())):
                if process.poll() is not None:
                    raise SystemExit((folder / "log").read_text())
                time.sleep(0.1)
            yield f"{found[1]}/v2/models/noise/infer"
        finally:
            process.terminate()
            process.wait()


def ask(client: httpx.Client, address: str, image: torch.Tensor, tenant: str) -> None:
    """Have one image ``(3, 32, 32)`` labelled."""
    content, headers = write_message({}, "inputs", [("input-0", "FP32", image[None].numpy(), True)])
    while True:
        answer = client.post(address, content=content, headers={**headers, "X-API-Key": KEYS[tenant]})
        if answer.status_code != 429:
            answer.raise_for_status()
            return
        time.sleep(float(answer.headers["Retry-After"]))


def ask_all(client: httpx.Client, address: str, images: torch.Tensor) -> None:
    """Have images labelled, by many clients at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda image: ask(client, address, image, "modest"), images):
            pass


def modest_seconds(address: str, images: torch.Tensor, greedy: int, duration: float) -> float:
    """The median seconds for an image of a tenant with one client, beside ``greedy`` clients of another tenant."""
    end = threading.Event()

    def send() -> None:
        with httpx.Client(timeout=120, trust_env=False) as client:
            while not end.is_set():
                for image in images:
                    if not end.is_set():
                        ask(client, address, image, "greedy")

    with ThreadPoolExecutor(greedy) as pool, httpx.Client(timeout=120, trust_env=False) as client:
        for _ in range(greedy):
            pool.submit(send)
        time.sleep(1.0)
        found, started = [], time.perf_counter()
        for image in itertools.cycle(images):
            taken = seconds(lambda image=image: ask(client, address, image, "modest"))
            since = time.perf_counter() - started
            if since > duration / 3:  # until then, what was begun before it came is finished
                found.append(taken)
            if since > duration:
                break
        end.set()
    return statistics.median(found)


def rate(work: Any, count: int) -> float:
    """Images a second."""
    return count / seconds(work)


def seconds(work: Any) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
