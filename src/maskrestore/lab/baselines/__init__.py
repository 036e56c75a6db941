"""The baseline defenses and detectors, by name."""

from maskrestore.lab.baselines.base import BaselineConfig, Detection, Detector, DetectorConfig
from maskrestore.lab.baselines.bbcal import BBCaLConfig
from maskrestore.lab.baselines.blur import BlurConfig
from maskrestore.lab.baselines.diffpure import DiffPureConfig
from maskrestore.lab.baselines.februus import FebruusConfig
from maskrestore.lab.baselines.lite_bd import LiteBDConfig
from maskrestore.lab.baselines.majority_vote import MajorityVoteConfig
from maskrestore.lab.baselines.patchcleanser import PatchCleanserConfig
from maskrestore.lab.baselines.sampdetox import SampDetoxConfig
from maskrestore.lab.baselines.scale_up import ScaleUpConfig
from maskrestore.lab.baselines.shrinkpad import ShrinkPadConfig
from maskrestore.lab.baselines.strip import StripConfig
from maskrestore.lab.baselines.teco import TeCoConfig
from maskrestore.lab.baselines.transformations import (
    AffineConfig,
    ContrastConfig,
    DownscaleConfig,
    FlipConfig,
    GammaConfig,
    JpegConfig,
    MedianConfig,
    NoiseConfig,
)
from maskrestore.lab.baselines.zero_shot import ZIPConfig

__all__ = ["BASELINES", "DETECTORS", "BaselineConfig", "Detection", "Detector", "DetectorConfig"]

BASELINES: dict[str, BaselineConfig] = {
    "blur-weak": BlurConfig(sigma=0.5),
    "blur-strong": BlurConfig(sigma=1.0),
    "shrinkpad-weak": ShrinkPadConfig(padding=1 / 8),
    "shrinkpad-strong": ShrinkPadConfig(padding=1 / 4),
    "patchcleanser": PatchCleanserConfig(),
    "patchcleanser-variant": PatchCleanserConfig(fallback="all"),
    "patchcleanser-second-round": PatchCleanserConfig(fallback="second-round"),
    "majority-vote": MajorityVoteConfig(),
    "lite-bd": LiteBDConfig(),
    "lite-bd-half": LiteBDConfig(scale=0.5),
    "noise-weak": NoiseConfig(std=0.02),
    "noise-strong": NoiseConfig(std=0.1),
    "contrast": ContrastConfig(),
    "gamma": GammaConfig(),
    "flip": FlipConfig(),
    "downscale": DownscaleConfig(),
    "affine": AffineConfig(),
    "median": MedianConfig(),
    "jpeg": JpegConfig(),
    # White box. In the residual networks here, the map of this layer is fine enough to find a small trigger.
    "februus-xgradcam": FebruusConfig(cam="xgradcam", layer="stages.2"),
    "februus-gradcam++": FebruusConfig(cam="gradcam++", layer="stages.2"),
    # These need the weights of a diffusion model: a name on the hub, or a folder.
    "diffpure-ddpm": DiffPureConfig(sampler="ddpm"),
    "diffpure-sde": DiffPureConfig(sampler="sde"),
    "zip": ZIPConfig(),
    "sampdetox": SampDetoxConfig(),
}
"""Baseline defenses by name. ``BASELINES[name].build(key)`` builds one."""

DETECTORS: dict[str, DetectorConfig] = {
    "strip": StripConfig(),
    "scale-up": ScaleUpConfig(),
    "teco": TeCoConfig(),
    "bbcal": BBCaLConfig(),
}
"""Detectors by name. ``DETECTORS[name].build(key)`` builds one."""
