"""BDMAE, stage by stage: scores, refinement, restoration, and the class that composes them."""

from maskrestore.defense.bdmae import BDMAE, protect
from maskrestore.defense.config import PROFILES, BDMAEConfig
from maskrestore.defense.schedule import fast, within

__all__ = ["BDMAE", "PROFILES", "BDMAEConfig", "fast", "protect", "within"]
