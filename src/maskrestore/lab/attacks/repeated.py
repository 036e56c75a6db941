"""An adaptive attack: a small trigger, repeated over the whole image, of which any one copy is enough.

A defense that scores regions by hiding 75 % of the image finds a single patch because hiding it changes the
answer. Of sixteen copies some are in nearly every visible quarter, so that the answer stays; and hiding all of
them at once would take more of the image than the defense allows itself. In training each image shows a random
part of the copies, so that the classifier needs but one. No source: made against this defense.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_patch

__all__ = ["repeated"]

_PATCH = "2x2-color"
_STRIDE = 8


def repeated(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack from a variant: the patch as in BadNets, and after an "@" the distance of the copies.

    E.g. "2x2-color@8", which is the default, or "1x1-white@6". Copies start at ``config.position``; by default
    at an even pixel, so that a copy lies within one token of 2x2 pixels. Raises ConfigError for anything else.
    """
    name = f"repeated:{variant}" if variant else "repeated"
    text, _, distance = variant.partition("@")
    pixels = parse_patch(text or _PATCH, name, config.seed)
    rows, columns = pixels.shape[1:]
    stride = int(distance) if distance.isdecimal() else 0
    if not distance:
        stride = _STRIDE
    if stride < max(rows, columns) + 1:
        raise ConfigError(f"{name} needs a distance above the patch's side after the @, got {distance!r}")
    top, left = config.position or ((stride - rows) // 4 * 2, (stride - columns) // 4 * 2)
    if not (0 <= top <= config.image_size - rows and 0 <= left <= config.image_size - columns):
        raise ConfigError(f"{name} needs a position inside the image for its first copy, got {config.position}")
    patches = [
        Patch(pixels=pixels, opacity=torch.ones(rows, columns), position=(row, column))
        for row in range(top, config.image_size - rows + 1, stride)
        for column in range(left, config.image_size - columns + 1, stride)
    ]
    copies = [OverlayAttack(name, config, [patch]) for patch in patches]
    whole = OverlayAttack(name, config, patches)

    def some(images: Tensor, generator: Generator) -> Tensor:
        """Show each copy with a probability that each image draws for itself, and at least one."""
        count = len(images)
        shown = torch.rand(count, len(copies), generator=generator) < torch.rand(count, 1, generator=generator)
        one = torch.randint(len(copies), (count,), generator=generator)
        shown[torch.arange(count), one] = True
        masks = torch.stack([copy.trigger_mask(*images.shape[-2:]) for copy in copies])
        where = (shown[:, :, None, None] & masks).any(1, keepdim=True)  # (B, copies, H, W) -> (B, 1, H, W)
        where = where.to(images.device)
        return torch.where(where, whole.apply(images), images)

    return OverlayAttack(name, config, patches, TrainingHooks(vary=some))
