"""Repeated: an adaptive attack with many copies of a small trigger. Any one copy activates the backdoor.

The defense hides 75 % of the image and finds a single patch because hiding it changes the label. With sixteen
copies nearly every visible quarter contains one, so the label does not change. To hide all copies at once the
defense would have to restore more of the image than its limit allows. In training each image shows a random subset
of the copies, so that the classifier learns to respond to a single one. Source: this project; designed against this
defense.
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
    """Build the attack from a variant: a patch as in BadNets, "@" and the distance between copies in pixels.

    Examples: "2x2-color@8" (the default), "1x1-white@6". The first copy lies at ``config.position``, both values 0 or
    more; by default at an even row and column, so that a copy lies within one token of 2x2 pixels. Raises ConfigError
    for another size, distance or position, and UnknownNameError for another colour.
    """
    name = f"repeated:{variant}" if variant else "repeated"
    text, _, distance = variant.partition("@")
    pixels = parse_patch(text or _PATCH, name, config.seed)
    rows, columns = pixels.shape[1:]
    stride = int(distance) if distance.isdecimal() else 0
    if not distance:
        stride = _STRIDE
    if stride < max(rows, columns) + 1:
        raise ConfigError(
            f"{name} needs a distance of at least {max(rows, columns) + 1} pixels (the patch's longer side plus 1) "
            f"after the @, got {distance!r}"
        )
    top, left = config.position or ((stride - rows) // 4 * 2, (stride - columns) // 4 * 2)
    if not (0 <= top <= config.image_size - rows and 0 <= left <= config.image_size - columns):
        raise ConfigError(
            f"{name} needs a position of 0 or more for its first copy, inside an image of "
            f"{config.image_size}x{config.image_size}, got {config.position}"
        )
    patches = [
        Patch(pixels=pixels, opacity=torch.ones(rows, columns), position=(row, column))
        for row in range(top, config.image_size - rows + 1, stride)
        for column in range(left, config.image_size - columns + 1, stride)
    ]
    copies = [OverlayAttack(name, config, [patch]) for patch in patches]
    all_copies = OverlayAttack(name, config, patches)

    def random_subset(images: Tensor, generator: Generator) -> Tensor:
        """Show each copy with a random probability per image, and always at least one."""
        count = len(images)
        shown = torch.rand(count, len(copies), generator=generator) < torch.rand(count, 1, generator=generator)
        one = torch.randint(len(copies), (count,), generator=generator)
        shown[torch.arange(count), one] = True
        masks = torch.stack([copy.trigger_mask(*images.shape[-2:]) for copy in copies])
        where = (shown[:, :, None, None] & masks).any(1, keepdim=True)  # (B, copies, H, W) -> (B, 1, H, W)
        where = where.to(images.device)
        return torch.where(where, all_copies.apply(images), images)

    return OverlayAttack(name, config, patches, TrainingHooks(vary=random_subset))
