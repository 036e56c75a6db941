"""Filters in the domain of frequencies, for one image at a time: a result then does not depend on a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["without_peaks", "without_slow_changes"]

_NEIGHBOURS = 2
"""A frequency is compared with those up to so many steps away, along both directions."""
_SLOWEST = 1.5
"""Waves of fewer periods across the image have no peaks: there natural images differ most from one step to the next."""


def without_peaks(image: Tensor, height: float = 1.5) -> Tensor:
    """Remove periodic patterns: no frequency may be stronger than ``height`` times its neighbours.

    image: ``(C, H, W)`` in [0, 1]. Returns the same shape, in [0, 1]. The strength is the mean over the channels, that
    of the neighbours the median of 5 x 5 frequencies. This is the usual notch filter against periodic noise, but finds
    its notches by itself.
    """

    def gains(spectrum: Tensor, distance: Tensor) -> Tensor:
        strength = torch.fft.fftshift(spectrum.abs().mean(dim=0))  # (H, W)
        down, right = (min(_NEIGHBOURS, side) for side in strength.shape)  # fewer in an image of one pixel
        around = F.pad(strength[None, None], (right, right, down, down), mode="circular")[0, 0]
        windows = around.unfold(0, 2 * down + 1, 1).unfold(1, 2 * right + 1, 1)  # (H, W, 5, 5)
        usual = windows.flatten(2).median(dim=2).values
        limited = torch.fft.ifftshift((height * usual / strength.clamp(min=1e-9)).clamp(max=1))
        return torch.where(distance < _SLOWEST, 1.0, limited)

    return _filtered(image, gains)


def without_slow_changes(image: Tensor, periods: float) -> Tensor:
    """Remove what changes slowly across the image, and keep its mean colour.

    image: ``(C, H, W)`` in [0, 1]. periods: width of the Gaussian that is removed, in periods across the image. Returns
    the same shape, in [0, 1].
    """

    def gains(_: Tensor, distance: Tensor) -> Tensor:
        kept = 1 - torch.exp(-distance.square() / (2 * periods**2))
        return torch.where(distance == 0, 1.0, kept)

    return _filtered(image, gains)


def _filtered(image: Tensor, gains: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Multiply the spectrum of ``(C, H, W)`` by gains that depend on it and on the distance from frequency 0."""
    down, right = (torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64) for side in image.shape[-2:])
    distance = (down.unsqueeze(1).square() + right.square()).sqrt().to(image.device)  # (H, W), periods across the image
    spectrum = torch.fft.fft2(image.double())
    filtered: Tensor = torch.fft.ifft2(spectrum * gains(spectrum, distance)).real.clamp(0, 1).float()
    return filtered
