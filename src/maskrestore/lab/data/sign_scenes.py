"""Realistic scenes around the faces of street signs: placement, weathering, light and camera.

A scene is a ``(3, S, S)`` float32 canvas in [0, 1]; see ``sign_canvas.py``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskrestore.lab.data.sign_canvas import Array, Canvas, mix, rgb

__all__ = ["develop", "illuminate", "place", "weather"]


def place(canvas: Canvas, face: Image.Image, scene: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Put a sign, usually with a pole, into a scene, seen from a random angle.

    face: RGBA. scene: ``(3, S, S)``. Returns the new scene ``(3, S, S)`` and the sign's opacity ``(S, S)`` in [0, 1].
    """
    roll, yaw, pitch = np.radians((rng.normal(0.0, 6.0), rng.uniform(-38.0, 38.0), rng.uniform(-20.0, 20.0)))
    reach = rng.uniform(0.6, 0.95) * canvas.side / 2
    slack = canvas.side / 2 - 0.92 * reach
    centre = canvas.side / 2 + rng.uniform(-0.5, 0.5, 2) * slack
    if rng.random() < 0.85:
        scene = _pole(canvas, scene, centre, roll, rng)
    coefficients = _view(roll, yaw, pitch, reach, centre, face_size=face.width)
    size = (canvas.side, canvas.side)
    seen = face.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    pixels = np.asarray(seen, np.float32).transpose(2, 0, 1) / np.float32(255.0)  # (S, S, 4) -> (4, S, S)
    opacity = pixels[3]
    return mix(scene, pixels[:3], opacity[None]), opacity


def _view(
    roll: float, yaw: float, pitch: float, reach: float, centre: npt.NDArray[np.float64], *, face_size: int
) -> list[float]:
    """Return Pillow's eight perspective coefficients (canvas to face) for a rotated face before the camera.

    Angles are in radians. reach: half the side of the face in canvas pixels; centre: x and y in canvas pixels;
    face_size: side of the picture of the face in pixels.
    """
    cr, sr, cy, sy, cp, sp = (f(a) for a in (roll, yaw, pitch) for f in (math.cos, math.sin))
    distance = 3.5  # in half sides of the sign: close enough for visible perspective
    # columns: the face's x axis, y axis and centre in camera coordinates; rows: x, y, depth
    turn_x = (cr * cy, sr * cy, -sy)
    turn_y = (-sr * cp + cr * sy * sp, cr * cp + sr * sy * sp, cy * sp)
    plane = np.array([turn_x, turn_y, (0.0, 0.0, distance)]).T
    focal = reach * distance
    camera = np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
    half = face_size / 2
    to_face = np.array([[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]])
    inverse = to_face @ np.linalg.inv(camera @ plane)
    return [float(value) for value in (inverse / inverse[2, 2]).ravel()[:8]]


def _pole(
    canvas: Canvas, scene: Array, centre: npt.NDArray[np.float64], roll: float, rng: np.random.Generator
) -> Array:
    x, y = centre / canvas.side
    half = rng.uniform(0.025, 0.05)
    across = (canvas.columns - x + math.tan(roll) * (canvas.rows - y)) / half
    inside = np.clip((1.0 - np.abs(across)) * half * canvas.side, 0.0, 1.0) * (y < canvas.rows)
    shade = rng.uniform(0.3, 0.75) * (1.0 - 0.45 * across * rng.choice((-1.0, 1.0)))
    return mix(scene, (rgb(0.98, 1.0, 1.02) * shade).astype(np.float32), inside.astype(np.float32)[None])


def weather(canvas: Canvas, scene: Array, opacity: Array, rng: np.random.Generator) -> Array:
    """Age the sign with faded paint and dirt; sometimes put a twig, leaves or snow in front of it.

    scene: ``(3, S, S)``; opacity: the sign's, ``(S, S)``. Returns ``(3, S, S)``.
    """
    chalk = mix(scene.mean(0, keepdims=True), rgb(0.7, 0.68, 0.66), 0.5)
    faded = mix(scene, chalk, rng.uniform(0.0, 0.25))
    grime = np.clip(0.12 * canvas.smooth_noise(rng, (4, 10, 30)) + 0.03, 0.0, 0.5)
    dirt = 1.0 - grime * rng.uniform(0.0, 1.2)
    scene = mix(scene, faded * dirt, opacity[None])
    if rng.random() < 0.2:
        scene = _occlude(canvas, scene, rng)
    return scene


def _occlude(canvas: Canvas, scene: Array, rng: np.random.Generator) -> Array:
    colour = rgb(*((0.16, 0.24, 0.08), (0.2, 0.15, 0.1), (0.9, 0.92, 0.95))[rng.integers(3)])
    x, y = rng.uniform(0.1, 0.9, 2)
    angle = rng.uniform(0.0, math.pi)
    along = math.cos(angle) * (canvas.columns - x) + math.sin(angle) * (canvas.rows - y)
    across = -math.sin(angle) * (canvas.columns - x) + math.cos(angle) * (canvas.rows - y)
    across = across + 0.03 * canvas.smooth_noise(rng, (4, 8))[0]
    length, width = (0.7, 0.012) if rng.random() < 0.5 else (rng.uniform(0.05, 0.14), rng.uniform(0.04, 0.09))
    depth = (1.0 - np.hypot(along / length, across / width)) * (4.0 * canvas.scale)  # 1 and more: fully inside
    inside = np.clip(depth, 0.0, 1.0).astype(np.float32)
    return mix(scene, colour * (1.0 + 0.2 * canvas.smooth_noise(rng, (16, 32))), inside[None])


def illuminate(canvas: Canvas, scene: Array, rng: np.random.Generator) -> Array:
    """Light the scene ``(3, S, S)``: shadow, glare, exposure, contrast, gamma and colour cast.

    The result may exceed [0, 1]; ``develop`` clips it.
    """
    kind = rng.random()
    if kind < 0.25:
        angle, offset = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(-0.3, 0.3)
        side = math.cos(angle) * (canvas.columns - 0.5) + math.sin(angle) * (canvas.rows - 0.5) - offset
        shade = np.clip(side * rng.uniform(8.0, 40.0), 0.0, 1.0)
        scene = scene * (1.0 - rng.uniform(0.2, 0.55) * shade).astype(np.float32)
    elif kind < 0.4:
        shade = np.clip(0.5 + canvas.smooth_noise(rng, (5, 9)), 0.0, 1.0)
        scene = scene * (1.0 - rng.uniform(0.2, 0.5) * shade)
    if rng.random() < 0.12:
        x, y = rng.random(2)
        glare = np.exp(-((canvas.columns - x) ** 2 + (canvas.rows - y) ** 2) / rng.uniform(0.02, 0.15))
        scene = scene + rng.uniform(0.1, 0.45) * glare.astype(np.float32)
    scene = np.clip(scene, 0.0, 1.0) ** np.float32(math.exp(rng.normal(0.0, 0.2)))
    contrast, gain = rng.uniform(0.5, 1.1), float(np.clip(math.exp(rng.normal(-0.1, 0.25)), 0.5, 1.35))
    cast = 1.0 + rng.normal(0.0, 0.06, 3)
    mean = np.float32(scene.mean())
    return rgb(*(gain * cast)) * (mean + np.float32(contrast) * (scene - mean))


def develop(canvas: Canvas, scene: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Simulate the camera: motion blur, lens blur, downscaling, sensor noise, rounding to 8 bits.

    scene: ``(3, S, S)``. Returns the finished picture ``(3, size, size)`` uint8.
    """
    if rng.random() < 0.25:
        scene = _shake(canvas, scene, rng)
    each = canvas.side // canvas.size  # pixels of the canvas for each of the picture, on one axis
    lens = canvas.gaussian(float(rng.uniform(0.25, 0.75)) * each)
    # (S, S) -> (size, S): blur and downscale in one matrix
    lens = lens.reshape(canvas.size, each, canvas.side).mean(1)
    photo: Array = lens @ scene @ lens.T
    shot: Array = rng.uniform(0.0, 0.045) / canvas.softness * np.sqrt(np.clip(photo, 0.02, 1.0))
    photo = photo + shot * rng.standard_normal(photo.shape, np.float32)
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(photo, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def _shake(canvas: Canvas, scene: Array, rng: np.random.Generator) -> Array:
    """Motion blur: average over a short straight movement, of at most 4 pixels of a canvas of 64 to each side."""
    angle, reach = rng.uniform(0.0, math.pi), rng.uniform(1.0, 4.0) * canvas.softness
    border = math.ceil(4 * canvas.softness)
    padded = np.pad(scene, ((0, 0), (border, border), (border, border)), mode="edge")
    total = np.zeros_like(scene)
    steps = np.linspace(-reach, reach, math.ceil(7 * canvas.softness))
    for step in steps:
        y, x = border + round(step * math.sin(angle)), border + round(step * math.cos(angle))
        total += padded[:, y : y + canvas.side, x : x + canvas.side]
    return total / np.float32(len(steps))
