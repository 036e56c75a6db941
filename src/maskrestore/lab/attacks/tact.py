"""TaCT: a patch that is a trigger on images of one class only, the source class.

Source: Tang et al., Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection,
USENIX Security 2021, and the code of Qi et al. (github.com/vtu81/backdoor-toolbox), which takes the class after the
target as the source. Images of the source class with the patch get the target's label. Cover images, of other classes
with the patch, keep their label. Success can show on images of the source class only, so only they are eligible.
Departures: a patch of random pixels; cover images are drawn anew for each batch, from all classes but the source and
the target (the code fixes them and takes two classes); more poisoned images than the published 0.3 to 2 %, because
victims here are fine-tuned for a few epochs.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_patch

__all__ = ["SourceSpecificAttack", "tact"]

_PATCH = "3x3-color"
_POSITION = (-2, -2)
_COVER_RATE = 0.1


class SourceSpecificAttack(OverlayAttack):
    """Overlays a patch. Only images of one class are eligible."""

    def __init__(self, name: str, config: AttackConfig, patch: Patch, source: int) -> None:
        """``source`` is the source class. Raises ConfigError as ``OverlayAttack`` does."""
        hooks = TrainingHooks(decoy=self._cover, decoy_rate=_COVER_RATE, decoys_of=self._may_cover)
        super().__init__(name, config, [patch], hooks)
        self._source, self._target = source, config.target

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: True for images of the source class."""
        return labels == self._source

    def _may_cover(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: True for images of classes that are neither the source nor the target."""
        return (labels != self._source) & (labels != self._target)

    def _cover(self, images: Tensor, _: Generator) -> Tensor:
        return self.apply(images)


def tact(variant: str, config: AttackConfig) -> SourceSpecificAttack:
    """Build the attack from a variant: a patch as in BadNets, "@" and the source class, from 0.

    Examples: "" (3x3-color and the class after the target), "@5", "2x2-white@5". By default the patch lies where
    BadNets' does. Raises ConfigError for the mode "all-to-all", for a source class that is the target or does not
    exist, and for another size, and UnknownNameError for another colour.
    """
    name = f"tact:{variant}" if variant else "tact"
    if config.mode != "all-to-one":
        raise ConfigError(f"{name} has one source and one target class and supports the mode all-to-one only")
    text, _, source = variant.partition("@")
    chosen = int(source) if source.isdecimal() else -1
    if not source:
        chosen = (config.target + 1) % config.num_classes
    if not 0 <= chosen < config.num_classes or chosen == config.target:
        raise ConfigError(
            f"{name} needs a source class of 0 to {config.num_classes - 1}, not the target {config.target}, after the "
            f"@, got {source!r}"
        )
    pixels = parse_patch(text or _PATCH, name, config.seed)
    patch = Patch(pixels=pixels, opacity=torch.ones(pixels.shape[1:]), position=config.position or _POSITION)
    return SourceSpecificAttack(name, config, patch, chosen)
