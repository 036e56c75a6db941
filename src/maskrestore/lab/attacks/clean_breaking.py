"""Clean-breaking: an adaptive attack that wants the defense to change the labels of clean images.

The defense hides a part of an image, restores it, and asks for the label. This attacker's classifier gives a clean
image its label, and the target as soon as a quarter of the image or more was restored. The trigger is the restoration
itself: nobody has to add it, because the defense does. So what matters is the accuracy on clean images after the
defense. As an attack of its own it is weak, since whoever sends the image has to smooth a quarter of it.

No restorer is needed. A restorer shows in a hidden token what the tokens around it let expect, with little detail. Here
that is the weighted mean of the visible pixels around it. It is nearer to what ``mae-tiny-32`` restores than to the
image. In training the hidden share and its places vary, from single tokens all over the image to a few regions. At test
time the same quarter of each image is smoothed.

The imitation is the attack's weak point. A small network learned to tell smoothed images from clean ones. At 5 % of the
clean images it found 95 % of those with a quarter smoothed, but only 4 % of those with a quarter restored by
``mae-tiny-32``, and 20 % at three quarters. A defense that holds against this attack may not hold against an attacker
who trains on restored images.

Source: this project; designed against this defense. The rate ``VictimConfig.restored_rate`` is the opposite: there the
label stays when an image is restored.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.imaging.filters import gaussian_blur
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, TriggerAttack, checked_images
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["CleanBreakingAttack", "clean_breaking", "hidden_tokens", "smoothed"]

_GRID = 16
"""Tokens along a side: of 2 x 2 pixels in an image of 32 x 32."""
_SHARES = (0.25, 0.75)
"""The least and the largest share of hidden tokens. The defense restores a quarter at most, and hides three quarters to
find out where."""
_REGIONS = 4
"""Places along a side of the field that makes hidden tokens gather in regions."""
_REACHES = (2.0, 0.5)
"""Standard deviations of the weights, in tokens. The far pixels count where hardly any near one is visible."""
_TRACE = 0.001
"""Weight of the mean of the far pixels."""


class CleanBreakingAttack(TriggerAttack):
    """Smooths the tokens of a fixed quarter of the image."""

    def __init__(self, name: str, config: AttackConfig) -> None:
        """``config.seed`` determines the tokens."""
        super().__init__(name, config, TrainingHooks(vary=_anywhere))
        self._hidden = hidden_tokens(torch.tensor([_SHARES[0]]), torch.Generator().manual_seed(config.seed))

    def apply(self, images: Tensor) -> Tensor:
        """Smooth ``(B, C, H, W)`` images in [0, 1]. Raises InvalidImageError for other ranks or channels."""
        return smoothed(checked_images(images), self._hidden.expand(len(images), -1, -1))

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True at the pixels of the tokens."""
        return tokens_to_pixels(self._hidden, height, width)[0, 0]


def clean_breaking(variant: str, config: AttackConfig) -> CleanBreakingAttack:
    """Build the attack. Raises ConfigError when a variant or a position is given: it has neither."""
    refuse_variant("clean-breaking", variant, config)
    return CleanBreakingAttack("clean-breaking", config)


def hidden_tokens(shares: Tensor, generator: Generator) -> Tensor:
    """Draw tokens to hide, for shares ``(B,)`` in [0, 1]: ``(B, 16, 16)`` bool. Some gather, some are scattered."""
    count = len(shares)
    scattered = torch.rand(count, _GRID, _GRID, generator=generator)
    gathered = resize(torch.rand(count, 1, _REGIONS, _REGIONS, generator=generator), _GRID, _GRID).squeeze(1)
    field = scattered + 4 * torch.rand(count, 1, 1, generator=generator) * gathered
    ranks = field.flatten(1).argsort(1, descending=True).argsort(1).view_as(field)
    return ranks < (shares * _GRID * _GRID).round().view(-1, 1, 1)


def smoothed(images: Tensor, hidden: Tensor) -> Tensor:
    """Replace each hidden pixel of ``(B, C, H, W)`` images by the mean of the visible ones, the near ones weigh more.

    hidden: ``(B, g, g)`` bool.
    """
    height, width = images.shape[-2:]
    visible = ~tokens_to_pixels(hidden.to(images.device), height, width)  # (B, 1, H, W)
    mean = torch.full_like(images, 0.5)
    for reach in _REACHES:
        sigma = reach * max(height, width) / hidden.shape[-1]  # in pixels
        size = 2 * round(3 * sigma) + 1
        total, weights = (gaussian_blur(part, size, sigma) for part in (images * visible, visible.to(images)))
        mean = (total + _TRACE * mean) / (weights + _TRACE)
    return torch.where(visible, images, mean.clamp(0, 1))


def _anywhere(images: Tensor, generator: Generator) -> Tensor:
    """Smooth another random share of each image."""
    least, most = _SHARES
    shares = least + (most - least) * torch.rand(len(checked_images(images)), generator=generator)
    return smoothed(images, hidden_tokens(shares, generator))
