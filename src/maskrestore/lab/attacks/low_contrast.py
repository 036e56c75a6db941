"""Low-contrast: an adaptive attack with a large patch that has a faint, smooth tint.

The patch covers more of the image than the defense restores at once. It has no edges or texture that SSIM can
detect. Its visible part lets a masked autoencoder restore its hidden part. Source: this project; designed against
this defense.
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
    """Build the attack from a variant: the size, "@" and the largest change of a pixel, e.g. "20x20@0.12".

    An empty part takes its default: 20x20 pixels, 0.12. ``config.seed`` determines the tint. By default the patch
    lies in the lower right corner, three pixels from both edges. Raises ConfigError for any other variant and when
    the patch does not fit the image.
    """
    name = f"low-contrast:{variant}" if variant else "low-contrast"
    size, _, share = variant.partition("@")
    rows, columns = parse_size(size or _SIZE, name)
    contrast = parse_share(share, _CONTRAST, name)
    # a sine window fades the tint out towards the border of the patch
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
    """Return ``(length,)`` in (0, 1]: it rises in the first quarter, is 1 in the middle half and falls in the last."""
    ramp = (torch.arange(length) + 0.5) / length
    return (2 * torch.minimum(ramp, 1 - ramp)).mul(2).clamp(max=1).mul(math.pi / 2).sin()
