"""How long PyTorch's threads on a CPU spin when they wait for one another, before they sleep.

GNU's OpenMP spins so long that two programs on the same cores keep each other waiting: a ResNet-18 answered 20 times as
slowly beside another program. 3000 turns, some microseconds, lost nothing on quiet cores. It is read when PyTorch is
loaded, so the package imports this first; whoever imports ``torch`` before can set ``GOMP_SPINCOUNT`` for the process.
"""

import os

__all__ = ["SPINS"]

SPINS = 3000

# What the user has said about it stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
