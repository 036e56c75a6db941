"""The profiles: settings by name, for ``profile=`` in Python and ``--profile`` on the command line."""

from __future__ import annotations

from maskrestore.defense.beyond_paper.all_to_all import AllToAllConfig
from maskrestore.defense.beyond_paper.budget import fast
from maskrestore.defense.beyond_paper.clouds import CLOUD_GRIDS
from maskrestore.defense.beyond_paper.fragile import FragileConfig
from maskrestore.defense.beyond_paper.moved import MovedConfig
from maskrestore.defense.beyond_paper.necessity import NecessityConfig
from maskrestore.defense.beyond_paper.photographs import PhotographsConfig
from maskrestore.defense.beyond_paper.scattered import ScatteredConfig
from maskrestore.defense.beyond_paper.squares import SquaresConfig
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig
from maskrestore.defense.beyond_paper.whole_image import WholeImageConfig
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.restoration import RestorationConfig
from maskrestore.defense.scores import ScoreConfig
from maskrestore.errors import ConfigError, UnknownNameError

__all__ = ["PROFILES", "profile_config"]

_PAPER = BDMAEConfig()
# Chosen on training-split images, for victims on CIFAR-10 and GTSRB; most later stages on images that no
# classifier had learned.
# - contrast instead of flips: with the packaged restorer, labels of clean images flip under many masks.
# - consensus: if hiding any token breaks a trigger, there is no contrast, but the masks agree on the true label.
# - transfer test: keeps clean images unchanged in which these scores find something; so a second attempt can lower the
#   thresholds.
# - squares: large faint triggers survive when scattered tokens are hidden.
# - photographs: their scores are high everywhere, and objects in them pass the transfer test. Chosen on training
#   pictures of Imagenette.
# - no refinement: it looks for tokens that flip the label when hidden. Clean images have such tokens too, and it takes
#   20 queries, more than the transfer test.
# - all_to_all: such a trigger brings no label along.
# - necessity: half an object may pass the transfer test.
# - scattered: S_i does not show marks of a few pixels in a photograph, and attempts there restore one region.
# - moved: the tests of regions find half of the triggers that work on their own image only.
# - whole_image: patterns over the whole image have no region to restore. Its filters also leave more of a faint
#   trigger's square than a restoration does.
# - fragile: warped images lose the trigger under faint noise.
_DEFAULT = BDMAEConfig(
    scores=ScoreConfig(label_score="contrast", contrast_windows=(1, 2), label_weight=0.6, consensus=True),
    refinement=None,
    restoration=RestorationConfig(thresholds=(0.65, 0.6, 0.55, 0.5, 0.45), attempts=(0.0, 0.2)),
    transfer_test=TransferTestConfig(),
    all_to_all=AllToAllConfig(),
    necessity=NecessityConfig(),
    photographs=PhotographsConfig(group_grids=CLOUD_GRIDS),
    moved=MovedConfig(),
    squares=SquaresConfig(),
    scattered=ScatteredConfig(),
    whole_image=WholeImageConfig(),
    fragile=FragileConfig(),
)

PROFILES: dict[str, BDMAEConfig] = {
    "default": _DEFAULT,
    "paper": _PAPER,
    "fast": fast(_DEFAULT),
    "paper-fast": fast(_PAPER),
}
"""``default`` was chosen by measurement; ``paper`` is the method as published. ``fast`` and ``paper-fast``
begin with group testing, which settles most images with few queries."""


def profile_config(profile: BDMAEConfig | str) -> BDMAEConfig:
    """Settings, given as such or as the name of a profile. Raises UnknownNameError, and ConfigError for other types."""
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise UnknownNameError("profile", profile, PROFILES)
        return PROFILES[profile]
    if not isinstance(profile, BDMAEConfig):
        raise ConfigError(f"expected a BDMAEConfig or the name of a profile, got {type(profile).__name__}")
    return profile
