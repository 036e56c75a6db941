"""``python -m fuzzing``: run the parts, print what was tried and found, and exit with 1 if anything was found."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzzing import answers, commands, models, pictures, requests
from fuzzing.guard import Outcome

PARTS: dict[str, Callable[[float, int], Outcome]] = {
    "pictures": pictures.fuzz,
    "commands": commands.fuzz,
    "answers": answers.fuzz,
    "models": models.fuzz,
    "requests": requests.fuzz,
}
"""Each takes seconds and a seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser("fuzzing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all parts together")
    parser.add_argument("--seed", type=int, default=None, help="of the cases; another one in each run if not given")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), help="folder for the cases that were found")
    parser.add_argument("--again", type=Path, help="try a file of that folder again")
    options = parser.parse_args(arguments)
    if options.again is not None:
        part, case = pickle.loads(options.again.read_bytes())
        print(sys.modules[PARTS[part].__module__].check(case) or "nothing wrong")
        return 0
    seed = random.randrange(2**32) if options.seed is None else options.seed
    names = options.only or list(PARTS)
    found = 0
    for name in names:
        outcome = PARTS[name](options.seconds / len(names), seed)
        found += len(outcome.finds)
        print(f"{name}: {outcome.tried} tried, {len(outcome.finds)} found (seed {seed})", flush=True)
        for number, find in enumerate(outcome.finds):
            options.finds.mkdir(parents=True, exist_ok=True)
            file = options.finds / f"{name}-{seed}-{number}.pickle"
            file.write_bytes(pickle.dumps((name, find.case)))
            print(f"  {file}: {os.linesep.join(find.what.strip().splitlines()[-3:])}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
