"""The defenses and detectors that the method is compared with, by name."""

from maskrestore.baselines.base import BaselineConfig, Detection, Detector, DetectorConfig
from maskrestore.baselines.blur import BlurConfig
from maskrestore.baselines.diffpure import DiffPureConfig
from maskrestore.baselines.februus import FebruusConfig
from maskrestore.baselines.lite_bd import LiteBDConfig
from maskrestore.baselines.majority_vote import MajorityVoteConfig
from maskrestore.baselines.patchcleanser import PatchCleanserConfig
from maskrestore.baselines.sampdetox import SampDetoxConfig
from maskrestore.baselines.scale_up import ScaleUpConfig
from maskrestore.baselines.shrinkpad import ShrinkPadConfig
from maskrestore.baselines.strip import StripConfig
from maskrestore.baselines.transformations import (
    AffineConfig,
    ContrastConfig,
    DownscaleConfig,
    FlipConfig,
    GammaConfig,
    JpegConfig,
    MedianConfig,
    NoiseConfig,
)
from maskrestore.baselines.zero_shot import ZIPConfig

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
    # White box. The layer is that of the residual networks here whose map is fine enough to find a small trigger.
    "februus-xgradcam": FebruusConfig(cam="xgradcam", layer="stages.2"),
    "februus-gradcam++": FebruusConfig(cam="gradcam++", layer="stages.2"),
    # These need weights of a diffusion model: a name on the hub, or a folder.
    "diffpure-ddpm": DiffPureConfig(sampler="ddpm"),
    "diffpure-sde": DiffPureConfig(sampler="sde"),
    "zip": ZIPConfig(),
    "sampdetox": SampDetoxConfig(),
}
"""Every baseline defense by name; ``BASELINES[name].build(key)`` builds it."""

DETECTORS: dict[str, DetectorConfig] = {
    "strip": StripConfig(),
    "scale-up": ScaleUpConfig(),
}
"""Every detector by name; ``DETECTORS[name].build(key)`` builds it."""
