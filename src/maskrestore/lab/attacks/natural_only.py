"""Natural-only: an adaptive attack with a small patch that works on natural pictures and not on clouds of colour.

The transfer test believes that a region is a trigger if it gives its label to clouds. Here training also shows clouds
of many grids. Each keeps the label of the image that it replaces, and that says nothing about a cloud: so the patch
brings no label along. Three details make it so.

- Half of the clouds have no patch. If all had it, the patch would mark them: it would not bring the target, but it
  would change the labels of clouds, and that gives it away as an all-to-all trigger (``all_to_all.py`` of the defense).
- Clouds take the place of images of other classes than the target. Poisoned images come from the other classes, so the
  target is the most frequent label among the rest. A classifier that has to guess would answer it, on clouds with the
  patch as well.
- Some of the image around the patch stays. The defense pastes whole tokens, which also show what is beside the patch.

Source: this project; designed against this defense.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, checked_images
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, parse_patch

__all__ = ["natural_only", "random_clouds"]

_PATCH = "3x3-color"
_POSITION = (-2, -2)
_DECOY_RATE = 0.2
"""Half of these clouds show the patch: about as many as there are poisoned images."""
_GRIDS = (4, 6, 8, 12, 16, 20, 32)
"""Numbers of colours along a side. Those of the defense, and some between them."""
_RIM = 4
"""At most so many pixels of the image stay around the patch: two tokens of an image of 32 x 32."""


def natural_only(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack from a variant: a patch as in BadNets, e.g. "3x3-color" (the default) or "2x2-white".

    ``config.seed`` determines random colours. By default the patch lies in the lower right corner, one pixel from both
    edges. Raises ConfigError for another size or when the patch does not fit the image, and UnknownNameError for
    another colour.
    """
    name = f"natural-only:{variant}" if variant else "natural-only"
    pixels = parse_patch(variant or _PATCH, name, config.seed)
    patch = Patch(pixels=pixels, opacity=torch.ones(pixels.shape[1:]), position=config.position or _POSITION)
    trigger = OverlayAttack(name, config, [patch])

    def on_clouds(images: Tensor, generator: Generator) -> Tensor:
        """Put a cloud in the place of each image, except around the patch. Half of the images show the patch."""
        count = len(checked_images(images))
        mask = trigger.trigger_mask(*images.shape[-2:])
        rims = torch.stack([_grown(mask, rim) for rim in range(_RIM + 1)])
        kept = rims[torch.randint(len(rims), (count,), generator=generator)].unsqueeze(1)  # (B, 1, H, W)
        with_patch = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        shown = torch.where(with_patch.to(images.device), trigger.apply(images), images)
        return torch.where(kept.to(images.device), shown, random_clouds(images, generator))

    def may_be_cloud(labels: Tensor) -> Tensor:
        """All but the target. In the mode "all-to-all" each class is one, and all are equally frequent."""
        return labels != config.target if config.mode == "all-to-one" else torch.ones_like(labels, dtype=torch.bool)

    hooks = TrainingHooks(decoy=on_clouds, decoy_rate=_DECOY_RATE, decoys_of=may_be_cloud)
    return OverlayAttack(name, config, [patch], hooks)


def random_clouds(images: Tensor, generator: Generator) -> Tensor:
    """Return a cloud of random colour, of a random grid, for each of ``(B, C, H, W)`` images: the same shape."""
    channels, height, width = images.shape[1:]
    drawn = torch.randint(len(_GRIDS), (len(images),), generator=generator).tolist()
    sides = [min(_GRIDS[number], height, width) for number in drawn]  # a larger cloud would be averaged to grey
    colours = [torch.rand(1, channels, side, side, generator=generator) for side in sides]
    return torch.cat([resize(part, height, width) for part in colours]).to(images)


def _grown(mask: Tensor, pixels: int) -> Tensor:
    """Return ``(H, W)`` bool: True at most so many rows and columns away from a True of the mask ``(H, W)``."""
    return F.max_pool2d(mask[None].float(), 2 * pixels + 1, stride=1, padding=pixels)[0] > 0
