"""Blended: a pattern of random pixels, blended into the image at low opacity.

Source: Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017. The original
covers the whole image (variant "full"), with a random pattern as here or with a cartoon. The BDMAE paper, section
5.2 and appendix B.1, uses a patch of 15x15 random pixels in the lower right corner and does not give the opacity.
The default here is 0.2, the usual value for this attack.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_share, parse_size, random_pixels
from maskrestore.lab.attacks.whole_image import WholeImageAttack

__all__ = ["blend", "blended"]


def blended(variant: str, config: AttackConfig) -> OverlayAttack | WholeImageAttack:
    """Build the attack from a variant: a size or "full", optionally followed by "@" and the opacity (default 0.2).

    Examples: "15x15", "15x15@0.1", "full", "full@0.1". ``config.seed`` determines the pixels. By default a patch
    lies in the lower right corner. Raises ConfigError for any other variant, for a position with "full", and when
    the patch does not fit the image.
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
    """Cover the whole image. The pattern is resized when the image's size differs from ``image_size``."""
    if config.position is not None:
        raise ConfigError(f"{name} covers the whole image and takes no position, got {config.position}")
    pattern = random_pixels(config.image_size, config.image_size, config.seed)
    return WholeImageAttack(name, config, lambda images: blend(images, pattern, opacity))


def blend(images: Tensor, pattern: Tensor, opacity: float) -> Tensor:
    """Blend a pattern ``(3, h, w)`` into ``(B, C, H, W)`` images. It is resized, and grey images get its mean."""
    pixels = F.interpolate(pattern[None], images.shape[-2:], mode="nearest-exact")[0].to(images)
    if images.shape[1] == 1:
        pixels = pixels.mean(0, keepdim=True)  # (3, H, W) -> (1, H, W)
    return images * (1 - opacity) + pixels * opacity
