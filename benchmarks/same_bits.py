"""Whether two checkouts purify to the same bits, on this machine: for changes that must not change a result.

    git worktree add /tmp/before main~1
    python -m benchmarks.same_bits /tmp/before . [--data FOLDER]

Each checkout purifies 12 rendered signs, and 12 test images of CIFAR-10 with ``--data``. Every second image carries
the trigger of the demo. All four profiles run, each checkout in its own process. Every field of the results is
compared bit for bit. Nothing is kept: bits differ from one kind of processor to another.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PROFILES = ("paper", "default", "fast", "paper-fast")

# Runs in either checkout, so it uses only what every release has, and falls back to the names of 0.0.
_PROGRAM = """
import dataclasses, sys, torch
from maskrestore import BDMAE, ModuleClassifier
from maskrestore import PROFILES
try:
    from maskrestore.lab.data import load_dataset
    from maskrestore.lab.data.signs import load_signs
    from maskrestore.lab.victims import load_packaged_victim
except ImportError:
    from maskrestore.data import load_dataset
    from maskrestore.data.signs import load_signs
    from maskrestore.victims import load_packaged_victim

def config(name):
    if name in PROFILES:
        return PROFILES[name]
    from maskrestore import fast
    return fast(PROFILES["paper" if "paper" in name else "default"])

out, data, *profiles = sys.argv[1:]
victim = load_packaged_victim("signs-badnets")
classifier = ModuleClassifier(victim.network)
sources = {"signs": load_signs("test", count=12).images}
if data:
    from pathlib import Path
    sources["cifar10"] = load_dataset("cifar10", "test", folder=Path(data)).images[:12]
found = {}
for name, raw in sources.items():
    images = raw.float() / 255
    images[::2] = victim.attack.apply(images[::2])
    for profile in profiles:
        result = BDMAE("mae-tiny-32", config(profile), key="same bits").purify(images, classifier)
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if value is not None:
                found[f"{name}/{profile}/{field.name}"] = value
torch.save(found, out)
"""


def purified(checkout: Path, data: Path | None) -> dict[str, torch.Tensor]:
    """Every field of the results of a checkout, by source, profile and name."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.pt"
        source = str(checkout.resolve() / "src")
        command = [sys.executable, "-c", _PROGRAM, str(out), str(data.resolve()) if data else "", *PROFILES]
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": source})
        found: dict[str, torch.Tensor] = torch.load(out)
    return found


def main() -> int:
    """Compare two checkouts; the exit status is 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--data", type=Path, help="folder with cifar10/ in the Hugging Face hub's parquet layout")
    chosen = parser.parse_args()
    before, after = purified(chosen.before, chosen.data), purified(chosen.after, chosen.data)
    missing = sorted(before.keys() - after.keys())
    differing = [name for name in sorted(before.keys() & after.keys()) if not torch.equal(before[name], after[name])]
    for name in missing:
        print(f"missing: {name}")
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(before) - len(missing) - len(differing)} of {len(before)} fields are the same bits")
    return int(bool(missing or differing))


if __name__ == "__main__":
    raise SystemExit(main())
