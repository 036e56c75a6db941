"""Icons of 15x15 pixels, drawn from formulas: the triggers for large images.

Source: the BDMAE paper, appendix B.1, uses "several 15x15 icons" of everyday objects and social media, but does not
show all of them. The icons here are similar.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from maskrestore.errors import UnknownNameError

__all__ = ["ICONS", "draw_icon"]

_SIDE = 15
_SAMPLES = 8  # samples per pixel and axis, for smooth edges

_Layer = tuple[Tensor, tuple[float, float, float]]
"""The area of a shape, ``(h, w)`` bool, and its colour, RGB in [0, 1]."""


def _flower(x: Tensor, y: Tensor) -> list[_Layer]:
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    petals = radius < 0.62 + 0.33 * torch.cos(5 * angle + math.pi / 2)
    return [(petals, (0.93, 0.25, 0.55)), (radius < 0.28, (1.0, 0.85, 0.1))]


def _star(x: Tensor, y: Tensor) -> list[_Layer]:
    # a point lies in a five-pointed star when it is inside at least four of the five half-planes
    sides = [
        x * math.cos(turn) + y * math.sin(turn) < 0.31
        for turn in (-math.pi / 2 + 2 * math.pi * k / 5 for k in range(5))
    ]
    return [(torch.stack(sides).sum(0) >= 4, (1.0, 0.8, 0.0))]


def _phone(x: Tensor, y: Tensor) -> list[_Layer]:
    body = (x.abs() < 0.55) & (y.abs() < 0.97) & (x.abs() + y.abs() < 1.42)
    screen = (x.abs() < 0.42) & (y > -0.75) & (y < 0.6)
    button = torch.hypot(x, y - 0.78) < 0.1
    return [(body, (0.08, 0.08, 0.1)), (screen, (0.35, 0.75, 0.95)), (button, (0.85, 0.85, 0.85))]


def _heart(x: Tensor, y: Tensor) -> list[_Layer]:
    x, y = 1.2 * x, 0.15 - 1.2 * y
    return [((x**2 + y**2 - 0.9) ** 3 < x**2 * y**3, (0.85, 0.05, 0.1))]


def _smile(x: Tensor, y: Tensor) -> list[_Layer]:
    radius = torch.hypot(x, y)
    eyes = torch.hypot(x.abs() - 0.36, y + 0.3) < 0.16
    mouth = (torch.hypot(x, y - 0.05) - 0.52).abs() < 0.09
    dark = (0.15, 0.1, 0.05)
    return [(radius < 0.97, (1.0, 0.82, 0.15)), (eyes, dark), (mouth & (y > 0.2), dark)]


ICONS: dict[str, Callable[[Tensor, Tensor], list[_Layer]]] = {
    "flower": _flower,
    "heart": _heart,
    "phone": _phone,
    "smile": _smile,
    "star": _star,
}
"""Icons by name. Each maps coordinates x (to the right) and y (down), -1 to 1, to its layers, the lowest first."""


def draw_icon(name: str) -> Tensor:
    """Return an icon as ``(4, 15, 15)`` RGBA in [0, 1]. Raises UnknownNameError."""
    if name not in ICONS:
        raise UnknownNameError("icon", name, ICONS)
    samples = (torch.arange(_SIDE * _SAMPLES) + 0.5) / (_SIDE * _SAMPLES) * 2 - 1
    y, x = torch.meshgrid(samples, samples, indexing="ij")
    colour, alpha = torch.zeros(3, *x.shape), torch.zeros(x.shape)
    for shape, paint in ICONS[name](x, y):
        colour = torch.where(shape, torch.tensor(paint).view(3, 1, 1), colour)
        alpha = torch.where(shape, 1.0, alpha)
    # average over the samples of each pixel; the colour over opaque samples only, so that edges are not darkened
    opacity = torch.nn.functional.avg_pool2d(alpha[None], _SAMPLES)
    pixels = torch.nn.functional.avg_pool2d(colour * alpha, _SAMPLES) / opacity.clamp(min=1e-6)
    return torch.cat([pixels.clamp(0, 1), opacity])
