"""Backgrounds of the rendered street signs, with the smooth noise and blur they use.

The canvas is ``(3, S, S)`` float32 in [0, 1] with S = ``CANVAS``. Smooth noise is a sum of small random grids, enlarged
by fixed interpolation matrices. That takes a tenth of a millisecond and is cheaper than an image filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CANVAS", "COLUMNS", "ROWS", "Array", "background", "gaussian", "mix", "rgb", "smooth_noise"]

CANVAS = 64
"""Side of the canvas in pixels."""

Array = npt.NDArray[np.floating[Any]]

ROWS = np.linspace(0.0, 1.0, CANVAS, dtype=np.float32)[:, None]  # (S, 1): 0 at the top, 1 at the bottom
COLUMNS = ROWS.T  # (1, S)


def rgb(*values: float) -> Array:
    """Return a colour ``(3, 1, 1)`` that broadcasts over a canvas."""
    return np.asarray(values, np.float32)[:, None, None]


@cache
def _enlarge(cells: int) -> Array:
    """Return the interpolation matrix ``(S, cells)`` with cosine weights."""
    position = np.linspace(0.0, cells - 1.0, CANVAS)
    low = np.minimum(np.floor(position).astype(int), cells - 2)
    weight = (1.0 - np.cos((position - low) * math.pi)) / 2.0
    matrix = np.zeros((CANVAS, cells), np.float32)
    rows = np.arange(CANVAS)
    matrix[rows, low] = 1.0 - weight
    matrix[rows, low + 1] = weight
    return matrix


def smooth_noise(rng: np.random.Generator, cells: tuple[int, ...], channels: int = 1, decay: float = 0.6) -> Array:
    """Return smooth noise ``(channels, S, S)`` with a variance of about 1.

    One octave per entry of ``cells``, its grid size; each octave has ``decay`` times the amplitude of the one before.
    """
    total = np.zeros((channels, CANVAS, CANVAS), np.float32)
    power, amplitude = 0.0, 1.0
    for count in cells:
        grid = rng.standard_normal((channels, count, count), np.float32)
        total += np.float32(amplitude) * (_enlarge(count) @ grid @ _enlarge(count).T)
        power += amplitude**2
        amplitude *= decay
    return total / np.float32(math.sqrt(power * 0.56))  # interpolation keeps about 56 % of the grid's variance


@cache
def _offsets() -> npt.NDArray[np.float32]:
    indices = np.arange(CANVAS, dtype=np.float32)
    return (indices[:, None] - indices[None, :]) ** 2  # (S, S): squared distances between rows


def gaussian(sigma: float) -> Array:
    """Return the matrix ``(S, S)`` of a Gaussian blur along one axis. Rows sum to 1, so borders are not darkened.

    sigma: standard deviation in pixels of the canvas.
    """
    weights: Array = np.exp(_offsets() * np.float32(-0.5 / sigma**2))
    weights /= weights.sum(1, keepdims=True)
    return weights


def _tone(rng: np.random.Generator, low: float, high: float) -> Array:
    """Return a colour ``(3, 1, 1)`` of random brightness from ``low`` to ``high`` and low saturation."""
    return rgb(*(rng.uniform(low, high) * (1.0 + rng.normal(0.0, 0.13, 3))))


def mix(first: Array, second: Array, share: Array | float) -> Array:
    """Interpolate linearly: ``first`` where ``share`` is 0, ``second`` where it is 1."""
    return first + (second - first) * share


def _sky(rng: np.random.Generator) -> Array:
    zenith = rgb(0.25, 0.48, 0.8) if rng.random() < 0.6 else rgb(0.62, 0.66, 0.72)
    haze = rgb(0.8, 0.86, 0.93)
    clouds = np.clip(0.5 + 0.45 * smooth_noise(rng, (3, 6, 12, 24)), 0.0, 1.0) * np.float32(rng.uniform(0.0, 0.9))
    return mix(mix(zenith, haze, ROWS), rgb(0.94, 0.94, 0.95), clouds)


def _foliage(rng: np.random.Generator) -> Array:
    tones = (rgb(0.1, 0.2, 0.06), rgb(0.26, 0.34, 0.1), rgb(0.42, 0.34, 0.14), rgb(0.16, 0.26, 0.2))
    dark = tones[rng.integers(4)] * rng.uniform(0.3, 0.8)
    light = tones[rng.integers(4)] * rng.uniform(1.2, 2.2)
    leaves = np.clip(0.45 + 0.3 * smooth_noise(rng, (5, 11, 23, 47), decay=0.9), 0.0, 1.0)
    gaps = np.clip(smooth_noise(rng, (9, 18)) - 1.5, 0.0, 0.6)  # sky between the leaves
    return mix(mix(dark, light, leaves), rgb(0.85, 0.9, 0.95), gaps)


def _wall(rng: np.random.Generator) -> Array:
    height = int(rng.integers(6, 14))
    width = int(height * rng.uniform(1.8, 2.6))
    joint = 1 + int(height > 9)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] + rng.integers(0, 32, 2)[:, None, None]
    course = y // height
    x = x + (course % 2) * (width // 2)
    tone = rng.normal(1.0, 0.12, (20, 40)).astype(np.float32)[course, x // width]
    brick = (rgb(0.56, 0.27, 0.2), rgb(0.6, 0.5, 0.38), rgb(0.5, 0.5, 0.52))[rng.integers(3)]
    mortar = (y % height < joint) | (x % width < joint)
    cement = rgb(0.68, 0.65, 0.6) * rng.uniform(0.6, 1.1)
    wall: Array = np.where(mortar[None], cement, brick * tone[None])
    wall *= 1.0 + 0.1 * smooth_noise(rng, (4, 16, 40))
    return wall


def _blobs(rng: np.random.Generator) -> Array:
    """Render a street out of focus: soft coloured patches and a few bright lights."""
    coarse, tint = smooth_noise(rng, (3, 5, 9)), smooth_noise(rng, (3, 5), channels=3)
    scene: Array = _tone(rng, 0.2, 0.5) + 0.12 * coarse + 0.06 * tint
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.random(2, np.float32)
        radius = rng.uniform(0.04, 0.22)
        distance = np.hypot(ROWS - y, COLUMNS - x)
        soft = np.clip((radius - distance) / 0.05, 0.0, 1.0) * rng.uniform(0.3, 0.9)
        scene = mix(scene, _tone(rng, 0.1, 1.0), soft)
    return scene


def _houses(rng: np.random.Generator) -> Array:
    """Render buildings with rows of windows before the sky."""
    scene = _sky(rng)
    for _ in range(int(rng.integers(1, 4))):
        left, top = rng.integers(-12, CANVAS - 12), rng.integers(0, CANVAS * 3 // 4)
        right = left + rng.integers(16, CANVAS)
        rows, columns = slice(top, CANVAS), slice(max(0, left), max(1, right))
        scene[:, rows, columns] = _tone(rng, 0.25, 0.8)
        step, size = int(rng.integers(7, 14)), int(rng.integers(3, 6))
        y, x = np.mgrid[0:CANVAS, 0:CANVAS]
        window = ((y - top) % step < size) & ((x - left) % step < size) & (y - top > 2)
        inside = window[rows, columns]
        scene[:, rows, columns] = np.where(inside, _tone(rng, 0.05, 0.6), scene[:, rows, columns])
    return scene * (1.0 + 0.06 * smooth_noise(rng, (8, 24)))


def _roadside(rng: np.random.Generator) -> Array:
    """Render sky above, foliage in the middle, asphalt or grass below."""
    line = smooth_noise(rng, (4, 9, 20))[0, :1] * 0.06 + rng.uniform(0.15, 0.6)
    upper = np.clip((line - ROWS) * 20.0, 0.0, 1.0)
    ground = rgb(*((0.36, 0.36, 0.37) if rng.random() < 0.6 else (0.3, 0.38, 0.16)))
    ground = ground * (1.0 + 0.15 * smooth_noise(rng, (6, 20, 50), decay=0.9))
    road_from = rng.uniform(0.7, 1.1)
    far = mix(_foliage(rng), ground, np.clip((ROWS - np.float32(road_from)) * 20.0, 0.0, 1.0))
    return mix(far, _sky(rng), upper)


def _gradient(rng: np.random.Generator) -> Array:
    angle = rng.uniform(0.0, 2.0 * math.pi)
    ramp = 0.5 + math.cos(angle) * (COLUMNS - 0.5) + math.sin(angle) * (ROWS - 0.5)
    first, second = _tone(rng, 0.05, 0.95), _tone(rng, 0.05, 0.95)
    return mix(first, second, ramp.astype(np.float32)) + 0.04 * smooth_noise(rng, (4, 12, 30), channels=3)


_BACKGROUNDS: tuple[Callable[[np.random.Generator], Array], ...] = (
    *(_sky, _foliage, _foliage, _roadside, _roadside, _roadside),
    *(_wall, _houses, _houses, _blobs, _gradient),
)


def background(rng: np.random.Generator) -> Array:
    """Return a random background ``(3, S, S)`` float32 in [0, 1]: sky, foliage, a roadside, a wall, houses, ..."""
    scene = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))](rng)
    if rng.random() < 0.75:  # the camera focuses on the sign, so the background is blurred
        focus = gaussian(float(rng.uniform(0.6, 3.0)))
        scene = focus @ scene @ focus.T
    return np.clip(scene, 0.0, 1.0).astype(np.float32)
