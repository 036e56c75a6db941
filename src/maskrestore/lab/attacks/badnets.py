"""BadNets: a small opaque patch.

Source: Gu et al., BadNets: Evaluating Backdooring Attacks on Deep Neural Networks, 2019. Sizes and colours follow
the BDMAE paper, appendix B.1 (1x1 to 3x3, white or coloured, and icons) and F (checkerboards). The paper does not
give the position. By default the patch lies in the lower right corner, one pixel from both edges.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskrestore.errors import ConfigError, ImageFileError
from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.icons import draw_icon
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_patch

__all__ = ["badnets", "icon_attack"]

_POSITION = (-2, -2)


def badnets(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack from a variant: size and colour, a built-in icon, or a PNG file.

    Examples: "3x3-white", "3x3-color" (random colour for each pixel, from ``config.seed``), "3x3-checkerboard",
    "icon-flower" (or another of ``ICONS``, 15x15 pixels), "sticker.png" (a path; its alpha channel is the opacity).
    Raises UnknownNameError for an unknown icon or colour, ImageFileError for an unreadable file, and ConfigError
    for any other variant or when the patch does not fit the image.
    """
    name = f"badnets:{variant}"
    if variant.lower().endswith(".png"):
        return icon_attack(name, _read_icon(Path(variant)), config)
    if variant.startswith("icon-"):
        return icon_attack(name, draw_icon(variant.removeprefix("icon-")), config)
    pixels = parse_patch(variant, name, config.seed)
    patch = Patch(pixels=pixels, opacity=torch.ones(pixels.shape[1:]), position=config.position or _POSITION)
    return OverlayAttack(name, config, [patch])


def icon_attack(name: str, icon: Tensor, config: AttackConfig) -> OverlayAttack:
    """Use a ``(4, h, w)`` RGBA icon in [0, 1] as the trigger. It is not resized; its alpha channel is the opacity.

    Raises ConfigError when the icon has another shape, is fully transparent, or does not fit the image.
    """
    if icon.ndim != 3 or icon.shape[0] != 4 or not bool((icon[3] > 0).any()):
        raise ConfigError(
            f"expected a visible RGBA icon of shape (4, h, w), got shape {tuple(icon.shape)} or only transparent pixels"
        )
    patch = Patch(pixels=icon[:3], opacity=icon[3], position=config.position or _POSITION)
    return OverlayAttack(name, config, [patch])


def _read_icon(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    except (OSError, Image.DecompressionBombError) as error:
        raise ImageFileError(f"the icon {path} cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)  # (h, w, 4) -> (4, h, w)
