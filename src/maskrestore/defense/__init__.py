"""BDMAE, stage by stage: scores, refinement, restoration, and the class that composes them."""

from maskrestore.defense.bdmae import BDMAE, protect
from maskrestore.defense.config import PROFILES, BDMAEConfig

__all__ = ["BDMAE", "PROFILES", "BDMAEConfig", "protect"]
