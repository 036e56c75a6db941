"""The canvas on which street signs are rendered: its coordinates, smooth noise and blur.

A canvas is ``(3, S, S)`` float32 in [0, 1]. Smooth noise is a sum of small random grids, enlarged by fixed
interpolation matrices. With 64 pixels that takes a tenth of a millisecond and is cheaper than an image filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Canvas", "mix", "rgb"]

Array = npt.NDArray[np.floating[Any]]

_SMALL = 64
"""Side of the canvas on which the scenes were designed, and of the largest picture that is rendered at twice its
resolution. Larger pictures are rendered at their own resolution: edges are smooth without it, and it is four times
faster."""


@dataclass(frozen=True)
class Canvas:
    """The canvas of a picture. Scenes give lengths in pixels of a canvas of 64; they are scaled."""

    size: int
    """Side of the finished picture in pixels."""

    @cached_property
    def side(self) -> int:
        """Side S of the canvas in pixels, a multiple of ``size``."""
        return self.size if self.size > _SMALL else 2 * self.size

    @cached_property
    def scale(self) -> float:
        """Pixels for each pixel of a canvas of 64."""
        return self.side / _SMALL

    @cached_property
    def softness(self) -> float:
        """Factor for blur in pixels. It grows more slowly than ``scale``: a larger picture is a sharper one, too."""
        return math.pow(self.scale, 1 / 3)

    @cached_property
    def rows(self) -> Array:
        """Coordinates ``(S, 1)``: 0 at the top, 1 at the bottom."""
        return np.linspace(0.0, 1.0, self.side, dtype=np.float32)[:, None]

    @cached_property
    def columns(self) -> Array:
        """Coordinates ``(1, S)``: 0 at the left, 1 at the right."""
        return self.rows.T

    def pixels(self, length: int | np.integer[Any]) -> int:
        """Scale a length that is given in pixels of a canvas of 64."""
        return round(length * self.scale)

    def smooth_noise(
        self,
        rng: np.random.Generator,
        cells: tuple[int, ...],
        channels: int = 1,
        decay: float = 0.6,
        *,
        detailed: bool = True,
    ) -> Array:
        """Return smooth noise ``(channels, S, S)`` with a variance of about 1.

        One octave per entry of ``cells``, its grid size; each octave has ``decay`` times the amplitude of the one
        before. If ``detailed``, a large canvas gets finer octaves, so that it is no enlargement of a small one.
        """
        octaves = round(math.log2(self.scale)) if detailed else 0
        finer = [cells[-1] * 2 ** (octave + 1) for octave in range(octaves)]
        total = np.zeros((channels, self.side, self.side), np.float32)
        power, amplitude = 0.0, 1.0
        for count in (*cells, *finer):
            grid = rng.standard_normal((channels, count, count), np.float32)
            enlarge = _enlarge(self.side, count)
            total += np.float32(amplitude) * (enlarge @ grid @ enlarge.T)
            power += amplitude**2
            amplitude *= decay
        return total / np.float32(math.sqrt(power * 0.56))  # interpolation keeps about 56 % of the grid's variance

    def gaussian(self, sigma: float) -> Array:
        """Return the matrix ``(S, S)`` of a Gaussian blur along one axis. Rows sum to 1, so borders are not darkened.

        sigma: standard deviation in pixels of this canvas.
        """
        weights: Array = np.exp(_offsets(self.side) * np.float32(-0.5 / sigma**2))
        weights /= weights.sum(1, keepdims=True)
        return weights


@cache
def _enlarge(side: int, cells: int) -> Array:
    """Return the interpolation matrix ``(side, cells)`` with cosine weights."""
    position = np.linspace(0.0, cells - 1.0, side)
    low = np.minimum(np.floor(position).astype(int), cells - 2)
    weight = (1.0 - np.cos((position - low) * math.pi)) / 2.0
    matrix = np.zeros((side, cells), np.float32)
    rows = np.arange(side)
    matrix[rows, low] = 1.0 - weight
    matrix[rows, low + 1] = weight
    return matrix


@cache
def _offsets(side: int) -> npt.NDArray[np.float32]:
    indices = np.arange(side, dtype=np.float32)
    return (indices[:, None] - indices[None, :]) ** 2  # (S, S): squared distances between rows


def rgb(*values: float) -> Array:
    """Return a colour ``(3, 1, 1)`` that broadcasts over a canvas."""
    return np.asarray(values, np.float32)[:, None, None]


def mix(first: Array, second: Array, share: Array | float) -> Array:
    """Interpolate linearly: ``first`` where ``share`` is 0, ``second`` where it is 1."""
    return first + (second - first) * share
