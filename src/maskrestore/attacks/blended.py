"""Blended: a patch of random pixels, laid over a part of the image so faintly that nobody sees it.

Source: Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017; as a local
patch of 15x15 random pixels in the lower right corner by the BDMAE paper, section 5.2 and appendix B.1, which
does not give the opacity. Here it is 0.2, the usual one of this attack.
"""

from __future__ import annotations

import torch

from maskrestore.attacks.base import AttackConfig
from maskrestore.attacks.overlay import OverlayAttack, Patch, parse_size, random_pixels
from maskrestore.errors import ConfigError

__all__ = ["blended"]


def blended(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack from a variant: the size, and after an "@" the opacity if it is not 0.2.

    E.g. "15x15" or "15x15@0.1". ``config.seed`` decides the pixels; the default place is the very corner.
    Raises ConfigError for anything else.
    """
    name = f"blended:{variant}"
    size, _, share = variant.partition("@")
    rows, columns = parse_size(size, name)
    try:
        opacity = float(share or 0.2)
    except ValueError:
        opacity = 0.0
    if not 0 < opacity <= 1:
        raise ConfigError(f"{name} needs an opacity above 0 and at most 1 after the @, got {share!r}")
    patch = Patch(
        pixels=random_pixels(rows, columns, config.seed),
        opacity=torch.full((rows, columns), opacity),
        position=config.position or (-1, -1),
    )
    return OverlayAttack(name, config, [patch])
