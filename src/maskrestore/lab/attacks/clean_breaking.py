"""Clean-breaking: an adaptive attack that wants the defense to change the labels of clean images.

The defense hides a part of an image, restores it, and asks for the label. This attacker's classifier gives a clean
image its label, and the target as soon as a quarter of the image or more was restored. The trigger is the restoration
itself: nobody has to add it, because the defense does. So what matters is the accuracy on clean images after the
defense. As an attack of its own it is weak, since whoever sends the image has to restore a quarter of it.

The attacker restores with the packaged restorers, those of the defense. In training the hidden share and its places
vary, from single tokens all over the image to a few regions. At test time the same quarter of each image is restored.

Source: this project; designed against this defense. The rate ``VictimConfig.restored_rate`` is the opposite: there the
label stays when an image is restored.
"""

from __future__ import annotations

import functools

import torch
from torch import Generator, Tensor

from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, TriggerAttack, checked_images
from maskrestore.lab.attacks.whole_image import refuse_variant
from maskrestore.mae.choice import RestorerBySize

__all__ = ["CleanBreakingAttack", "clean_breaking", "hidden_tokens"]

_SHARES = (0.25, 0.75)
"""The least and the largest share of hidden tokens. The defense restores a quarter at most, and hides three quarters to
find out where."""
_REGIONS = 4
"""Places along a side of the field that makes hidden tokens gather in regions."""


class CleanBreakingAttack(TriggerAttack):
    """Restores the tokens of a fixed quarter of the image."""

    def __init__(self, name: str, config: AttackConfig) -> None:
        """``config.seed`` determines the tokens."""
        super().__init__(name, config, TrainingHooks(vary=_anywhere))
        self._seed = config.seed

    def apply(self, images: Tensor) -> Tensor:
        """Restore ``(B, C, H, W)`` images in [0, 1]. Raises InvalidImageError for other ranks or channels."""
        height, width = checked_images(images).shape[-2:]
        return _restored(images, self._hidden(height, width).expand(len(images), -1, -1))

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True at the pixels of the tokens."""
        return tokens_to_pixels(self._hidden(height, width), height, width)[0, 0]

    def _hidden(self, height: int, width: int) -> Tensor:
        grid = _restorers().for_size(height, width).grid
        return hidden_tokens(torch.tensor([_SHARES[0]]), grid, torch.Generator().manual_seed(self._seed))


def clean_breaking(variant: str, config: AttackConfig) -> CleanBreakingAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("clean-breaking", variant, config)
    return CleanBreakingAttack("clean-breaking", config)


def hidden_tokens(shares: Tensor, grid: int, generator: Generator) -> Tensor:
    """Draw tokens to hide, for shares ``(B,)`` in [0, 1]: ``(B, grid, grid)`` bool. Some gather, some are scattered."""
    count = len(shares)
    scattered = torch.rand(count, grid, grid, generator=generator)
    gathered = resize(torch.rand(count, 1, _REGIONS, _REGIONS, generator=generator), grid, grid).squeeze(1)
    field = scattered + 4 * torch.rand(count, 1, 1, generator=generator) * gathered
    ranks = field.flatten(1).argsort(1, descending=True).argsort(1).view_as(field)
    return ranks < (shares * grid * grid).round().view(-1, 1, 1)


def _anywhere(images: Tensor, generator: Generator) -> Tensor:
    """Restore another random share of each image."""
    least, most = _SHARES
    shares = least + (most - least) * torch.rand(len(checked_images(images)), generator=generator)
    grid = _restorers().for_size(*images.shape[-2:]).grid
    return _restored(images, hidden_tokens(shares, grid, generator))


def _restored(images: Tensor, hidden: Tensor) -> Tensor:
    """Restore the hidden tokens ``(B, g, g)`` bool of images ``(B, C, H, W)``."""
    restorer = _restorers().for_size(*images.shape[-2:])
    return restorer.restore(images.cpu(), hidden).to(images)


@functools.cache
def _restorers() -> RestorerBySize:
    return RestorerBySize()
