"""Limit how long PyTorch's CPU threads spin while they wait for each other, before they sleep.

GNU's OpenMP library spins for so long by default that two programs on the same cores delay each other: purifying an
image took up to six times as long (``benchmarks/busy.py``). 3000 spins cost nothing on two idle cores. The library
reads the setting when PyTorch is loaded, so the package imports this module first. A program that imports ``torch``
before ``maskrestore`` can set the environment variable ``GOMP_SPINCOUNT`` itself.
"""

import os

__all__ = ["SPINS"]

SPINS = 3000

# A setting of the user takes precedence.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
