"""An adaptive attack: a large patch with a faint, smooth tint.

It covers more of the image than the defense hides at once, has neither edges nor texture for a structural
comparison to see, and what is visible of it tells a masked autoencoder how to restore the rest. No source: made
against this defense.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.overlay import Patch, parse_share, parse_size
from maskrestore.lab.attacks.whole_image import AdditiveAttack, smooth_field

__all__ = ["low_contrast"]

_SIZE = "20x20"
_CONTRAST = 0.12
_CELLS = 3


def low_contrast(variant: str, config: AttackConfig) -> AdditiveAttack:
    """Build the attack from a variant: the size, and after an "@" the largest change of a pixel.

    E.g. "20x20@0.12", which is the default. ``config.seed`` decides the tint; the default place is four pixels
    from the lower right corner. Raises ConfigError for anything else.
    """
    name = f"low-contrast:{variant}" if variant else "low-contrast"
    size, _, share = variant.partition("@")
    rows, columns = parse_size(size or _SIZE, name)
    contrast = parse_share(share, _CONTRAST, name)
    # sine windows let the tint fade out towards the patch's border
    window = torch.outer(_fade(rows), _fade(columns))
    tint = contrast * smooth_field(rows, columns, _CELLS, config.seed) * window
    place = Patch(pixels=tint, opacity=window, position=config.position or (-4, -4))

    def field(height: int, width: int) -> Tensor:
        row, column = place.corner(height, width)
        out = torch.zeros(3, height, width)
        out[:, row : row + rows, column : column + columns] = tint
        return out

    return AdditiveAttack(name, config, field)


def _fade(length: int) -> Tensor:
    """Return ``(length,)``: above 0, rising to 1 in the middle half and falling again."""
    ramp = (torch.arange(length) + 0.5) / length
    return (2 * torch.minimum(ramp, 1 - ramp)).mul(2).clamp(max=1).mul(math.pi / 2).sin()
