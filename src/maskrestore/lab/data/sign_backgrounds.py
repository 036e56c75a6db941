"""Backgrounds of the rendered street signs. Lengths in pixels are those on a canvas of 64; see ``sign_canvas.py``."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from maskrestore.lab.data.sign_canvas import Array, Canvas, mix, rgb

__all__ = ["background"]


def _tone(rng: np.random.Generator, low: float, high: float) -> Array:
    """Return a colour ``(3, 1, 1)`` of random brightness from ``low`` to ``high`` and low saturation."""
    return rgb(*(rng.uniform(low, high) * (1.0 + rng.normal(0.0, 0.13, 3))))


def _sky(canvas: Canvas, rng: np.random.Generator) -> Array:
    zenith = rgb(0.25, 0.48, 0.8) if rng.random() < 0.6 else rgb(0.62, 0.66, 0.72)
    haze = rgb(0.8, 0.86, 0.93)
    clouds = np.clip(0.5 + 0.45 * canvas.smooth_noise(rng, (3, 6, 12, 24)), 0.0, 1.0)
    clouds = clouds * np.float32(rng.uniform(0.0, 0.9))
    return mix(mix(zenith, haze, canvas.rows), rgb(0.94, 0.94, 0.95), clouds)


def _foliage(canvas: Canvas, rng: np.random.Generator) -> Array:
    tones = (rgb(0.1, 0.2, 0.06), rgb(0.26, 0.34, 0.1), rgb(0.42, 0.34, 0.14), rgb(0.16, 0.26, 0.2))
    dark = tones[rng.integers(4)] * rng.uniform(0.3, 0.8)
    light = tones[rng.integers(4)] * rng.uniform(1.2, 2.2)
    leaves = np.clip(0.45 + 0.3 * canvas.smooth_noise(rng, (5, 11, 23, 47), decay=0.9), 0.0, 1.0)
    gaps = np.clip(canvas.smooth_noise(rng, (9, 18)) - 1.5, 0.0, 0.6)  # sky between the leaves
    return mix(mix(dark, light, leaves), rgb(0.85, 0.9, 0.95), gaps)


def _wall(canvas: Canvas, rng: np.random.Generator) -> Array:
    drawn = int(rng.integers(6, 14))
    height, joint = canvas.pixels(drawn), canvas.pixels(1 + int(drawn > 9))
    width = int(height * rng.uniform(1.8, 2.6))
    start = [canvas.pixels(offset) for offset in rng.integers(0, 32, 2)]
    y, x = np.mgrid[0 : canvas.side, 0 : canvas.side] + np.array(start)[:, None, None]
    course = y // height
    x = x + (course % 2) * (width // 2)
    tone = rng.normal(1.0, 0.12, (20, 40)).astype(np.float32)[course, x // width]
    brick = (rgb(0.56, 0.27, 0.2), rgb(0.6, 0.5, 0.38), rgb(0.5, 0.5, 0.52))[rng.integers(3)]
    mortar = (y % height < joint) | (x % width < joint)
    cement = rgb(0.68, 0.65, 0.6) * rng.uniform(0.6, 1.1)
    wall: Array = np.where(mortar[None], cement, brick * tone[None])
    wall *= 1.0 + 0.1 * canvas.smooth_noise(rng, (4, 16, 40))
    return wall


def _blobs(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Render a street out of focus: soft coloured patches and a few bright lights."""
    coarse = canvas.smooth_noise(rng, (3, 5, 9), detailed=False)
    tint = canvas.smooth_noise(rng, (3, 5), channels=3, detailed=False)
    scene: Array = _tone(rng, 0.2, 0.5) + 0.12 * coarse + 0.06 * tint
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.random(2, np.float32)
        radius = rng.uniform(0.04, 0.22)
        distance = np.hypot(canvas.rows - y, canvas.columns - x)
        soft = np.clip((radius - distance) / 0.05, 0.0, 1.0) * rng.uniform(0.3, 0.9)
        scene = mix(scene, _tone(rng, 0.1, 1.0), soft)
    return scene


def _houses(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Render buildings with rows of windows before the sky."""
    scene = _sky(canvas, rng)
    for _ in range(int(rng.integers(1, 4))):
        left, top = canvas.pixels(rng.integers(-12, 52)), canvas.pixels(rng.integers(0, 48))
        right = left + canvas.pixels(rng.integers(16, 64))
        rows, columns = slice(top, canvas.side), slice(max(0, left), max(1, right))
        scene[:, rows, columns] = _tone(rng, 0.25, 0.8)
        step, size = canvas.pixels(rng.integers(7, 14)), canvas.pixels(rng.integers(3, 6))
        y, x = np.mgrid[0 : canvas.side, 0 : canvas.side]
        window = ((y - top) % step < size) & ((x - left) % step < size) & (y - top > canvas.pixels(2))
        inside = window[rows, columns]
        scene[:, rows, columns] = np.where(inside, _tone(rng, 0.05, 0.6), scene[:, rows, columns])
    return scene * (1.0 + 0.06 * canvas.smooth_noise(rng, (8, 24)))


def _roadside(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Render sky above, foliage in the middle, asphalt or grass below."""
    line = canvas.smooth_noise(rng, (4, 9, 20))[0, :1] * 0.06 + rng.uniform(0.15, 0.6)
    edge = 20.0 * canvas.scale
    upper = np.clip((line - canvas.rows) * edge, 0.0, 1.0)
    ground = rgb(*((0.36, 0.36, 0.37) if rng.random() < 0.6 else (0.3, 0.38, 0.16)))
    ground = ground * (1.0 + 0.15 * canvas.smooth_noise(rng, (6, 20, 50), decay=0.9))
    road_from = rng.uniform(0.7, 1.1)
    lower = np.clip((canvas.rows - np.float32(road_from)) * edge, 0.0, 1.0)
    far = mix(_foliage(canvas, rng), ground, lower)
    return mix(far, _sky(canvas, rng), upper)


def _gradient(canvas: Canvas, rng: np.random.Generator) -> Array:
    angle = rng.uniform(0.0, 2.0 * math.pi)
    ramp = 0.5 + math.cos(angle) * (canvas.columns - 0.5) + math.sin(angle) * (canvas.rows - 0.5)
    first, second = _tone(rng, 0.05, 0.95), _tone(rng, 0.05, 0.95)
    tint = canvas.smooth_noise(rng, (4, 12, 30), channels=3, detailed=False)
    return mix(first, second, ramp.astype(np.float32)) + 0.04 * tint


_BACKGROUNDS: tuple[Callable[[Canvas, np.random.Generator], Array], ...] = (
    *(_sky, _foliage, _foliage, _roadside, _roadside, _roadside),
    *(_wall, _houses, _houses, _blobs, _gradient),
)


def background(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Return a random background ``(3, S, S)`` float32 in [0, 1]: sky, foliage, a roadside, a wall, houses, ..."""
    scene = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))](canvas, rng)
    if rng.random() < 0.75:  # the camera focuses on the sign, so the background is blurred
        focus = canvas.gaussian(float(rng.uniform(0.6, 3.0)) * canvas.softness)
        scene = focus @ scene @ focus.T
    return np.clip(scene, 0.0, 1.0).astype(np.float32)
