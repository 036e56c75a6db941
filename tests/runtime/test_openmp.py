"""What PyTorch finds in the environment when the package loads it, in processes of their own."""

import os
import subprocess
import sys

import pytest

from maskrestore.runtime.openmp import SPINS

SCRIPT = """
import os, sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.meta_path.remove(Watch)

sys.meta_path.insert(0, Watch)
import maskrestore
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(said: dict[str, str], expected: str) -> None:
    outside = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**outside, **said}, capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == [expected]
