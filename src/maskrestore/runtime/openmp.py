"""How long PyTorch's threads on a CPU spin when they wait for one another, before they sleep.

GNU's OpenMP spins so long that two programs on the same cores keep each other waiting: an image took up to six times as
long to purify (``benchmarks/busy.py``). 3000 turns lost nothing on two quiet cores. It is read when PyTorch is
loaded, so the package imports this first; whoever imports ``torch`` before it can set ``GOMP_SPINCOUNT``.
"""

import os

__all__ = ["SPINS"]

SPINS = 3000

# What the user has said about it stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
