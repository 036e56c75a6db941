"""BDMAE, stage by stage: scores, refinement, restoration, and the class that composes them."""

from maskrestore.defense.bdmae import BDMAE, protect
from maskrestore.defense.beyond_paper.budget import fast, within
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.doubt import ABSTAINED
from maskrestore.defense.profiles import PROFILES

__all__ = ["ABSTAINED", "BDMAE", "PROFILES", "BDMAEConfig", "fast", "protect", "within"]
