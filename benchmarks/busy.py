"""How much another program on the same cores slows purification, by the spin count of OpenMP's threads.

    python -m benchmarks.busy --out benchmarks/results/speed/busy.json

Purifies the same images of noise with ``mae-tiny-32`` and a half-width ResNet-18, alone and next to a process that
multiplies matrices with as many threads; with the spin count of PyTorch alone and with that of
``maskrestore/runtime/openmp.py``. Each of the four runs has a process of its own, since PyTorch reads the setting when
it is loaded. Prints and records the seconds per image.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.openmp import SPINS

GNU_SPINS = 300_000
"""The default of GNU's OpenMP. Source: its manual, GOMP_SPINCOUNT."""
IMAGES = 16
STARTING = 5.0
"""Seconds to wait until the other program has started."""

PURIFY = f"""
import time, torch, maskrestore
from maskrestore.lab.victims import ResNet18
torch.manual_seed(0)
classifier = maskrestore.ModuleClassifier(ResNet18(10, width=32))
images, defense = torch.rand({IMAGES}, 3, 32, 32), maskrestore.BDMAE("mae-tiny-32")
defense.purify(images[:1], classifier)
started = time.perf_counter()
defense.purify(images, classifier)
print((time.perf_counter() - started) / len(images))
"""
MULTIPLY = """
import torch
a = torch.rand(1024, 1024)
while True:
    a @ a
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for beside in (False, True):
        for spins in (GNU_SPINS, SPINS):
            seconds = [seconds_per_image(spins, beside=beside) for _ in range(arguments.repeats)]
            rows.append({"spins": spins, "beside_another_program": beside, "seconds_per_image": seconds})
            print(json.dumps(rows[-1]), flush=True)
    record = {
        "benchmark": "busy",
        "images": IMAGES,
        "rows": rows,
        "environment": dataclasses.asdict(current_environment()),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


def seconds_per_image(spins: int, *, beside: bool) -> float:
    """Seconds per image with a spin count. beside: next to another process, which has the default spin count."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    }
    other = subprocess.Popen([sys.executable, "-c", MULTIPLY], env=environment) if beside else None
    try:
        time.sleep(STARTING if beside else 0)
        command = [sys.executable, "-c", PURIFY]
        found = subprocess.run(
            command, env={**environment, "GOMP_SPINCOUNT": str(spins)}, capture_output=True, text=True, check=True
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return round(float(found.stdout), 4)


if __name__ == "__main__":
    main()
