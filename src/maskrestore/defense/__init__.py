"""BDMAE, stage by stage: scores, refinement, restoration, and the class that composes them."""

from maskrestore.defense.bdmae import BDMAE, protect
from maskrestore.defense.beyond_paper.budget import fast, within
from maskrestore.defense.config import PROFILES, BDMAEConfig

__all__ = ["BDMAE", "PROFILES", "BDMAEConfig", "fast", "protect", "within"]
