"""Blended: random pixels, laid over the image so faintly that nobody sees them.

Source: Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017; as a local
patch of 15x15 random pixels in the lower right corner by the BDMAE paper, section 5.2 and appendix B.1, which
does not give the opacity. Here it is 0.2, the usual one of this attack. The original covers the whole image
("full"), with a random pattern as here or with a cartoon.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_share, parse_size, random_pixels
from maskrestore.lab.attacks.whole_image import WholeImageAttack

__all__ = ["blended"]


def blended(variant: str, config: AttackConfig) -> OverlayAttack | WholeImageAttack:
    """Build the attack from a variant: a size or "full", and after an "@" the opacity if it is not 0.2.

    E.g. "15x15", "15x15@0.1", "full" or "full@0.1". ``config.seed`` decides the pixels; the default place of a
    patch is the very corner. Raises ConfigError for anything else.
    """
    name = f"blended:{variant}"
    size, _, share = variant.partition("@")
    opacity = parse_share(share, 0.2, name)
    if size == "full":
        return _full(name, opacity, config)
    rows, columns = parse_size(size, name)
    patch = Patch(
        pixels=random_pixels(rows, columns, config.seed),
        opacity=torch.full((rows, columns), opacity),
        position=config.position or (-1, -1),
    )
    return OverlayAttack(name, config, [patch])


def _full(name: str, opacity: float, config: AttackConfig) -> WholeImageAttack:
    """Cover the whole image; the pattern is stretched when the image has another size than ``image_size``."""
    if config.position is not None:
        raise ConfigError(f"{name} covers the whole image and has no position, got {config.position}")
    pattern = random_pixels(config.image_size, config.image_size, config.seed)

    def transform(images: Tensor) -> Tensor:
        pixels = F.interpolate(pattern[None], images.shape[-2:], mode="nearest-exact")[0].to(images)
        if images.shape[1] == 1:
            pixels = pixels.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
        return images * (1 - opacity) + pixels * opacity

    return WholeImageAttack(name, config, transform)
