"""The faces of the rendered street signs: flat, frontal, on a transparent background.

Faces are drawn in unit coordinates (x to the right, y down, the sign within [-1, 1]) on a large canvas and downscaled,
so that edges are smooth. The designs follow the signs of the Vienna convention and copy no country's artwork. Text
uses Pillow's embedded font, so the result does not depend on system fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

__all__ = ["FACE_SIZE", "SIGN_NAMES", "VARIANTS", "sign_face"]

FACE_SIZE = 72
"""Side of a face in pixels, close to its size in a scene of 64 pixels."""
VARIANTS = 4
"""Number of designs per class. They differ in the weight of borders and symbols and in the colour of the field."""

Point = tuple[float, float]
Colour = tuple[int, int, int]

_OVERSAMPLING = 5
_MARGIN = 1.04  # half side of the canvas in unit coordinates; leaves a transparent rim for interpolation
_RED: Colour = (192, 22, 32)
_BLUE: Colour = (14, 76, 160)
_BLACK: Colour = (24, 24, 26)
_WHITE: Colour = (244, 244, 240)
_PALE: Colour = (248, 232, 168)
_YELLOW: Colour = (250, 190, 16)


class _Pen:
    """Draws in unit coordinates, with the line weight and the field colour of one variant."""

    def __init__(self, variant: int, side: int) -> None:
        self.image = Image.new("RGBA", (side, side))
        self._draw = ImageDraw.Draw(self.image)
        self.weight = (1.0, 1.15, 0.9, 1.05)[variant]
        self.field = _PALE if variant == 3 else _WHITE

    def _pixel(self, point: Point) -> Point:
        half = self.image.width / 2
        return (half + point[0] * half / _MARGIN, half + point[1] * half / _MARGIN)

    def _length(self, value: float) -> int:
        return max(1, round(value * self.image.width / 2 / _MARGIN))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def disc(self, radius: float, colour: Colour, centre: Point = (0.0, 0.0)) -> None:
        x, y = centre
        corners = [self._pixel((x - radius, y - radius)), self._pixel((x + radius, y + radius))]
        self._draw.ellipse(corners, fill=colour)

    def box(self, start: Point, end: Point, colour: Colour, *, radius: float = 0.0) -> None:
        corners = [self._pixel(start), self._pixel(end)]
        self._draw.rounded_rectangle(corners, self._length(radius), fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        pixels = [self._pixel(point) for point in points]
        self._draw.line(pixels, fill=colour, width=self._length(width), joint="curve")

    def arc(self, radius: float, start: float, end: float, width: float, colour: Colour) -> None:
        corners = [self._pixel((-radius, -radius)), self._pixel((radius, radius))]
        self._draw.arc(corners, start, end, fill=colour, width=self._length(width))

    def arrow(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a polyline with a triangular arrowhead at the last point."""
        self.line(points, width, colour)
        (x0, y0), (x1, y1) = points[-2:]
        norm = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (x1 - x0) / norm * width, (y1 - y0) / norm * width
        tip = (x1 + 1.7 * dx, y1 + 1.7 * dy)
        self.polygon([(x1 - 1.4 * dy, y1 + 1.4 * dx), (x1 + 1.4 * dy, y1 - 1.4 * dx), tip], colour)

    def text(self, text: str, size: float, bold: float, colour: Colour) -> None:
        font = ImageFont.load_default(size=self._length(size))
        self._draw.text(
            self._pixel((0.0, 0.0)),
            text,
            fill=colour,
            font=font,
            anchor="mm",
            stroke_width=self._length(bold * self.weight),
            stroke_fill=colour,
        )


def _regular(corners: int, radius: float, turn: float) -> list[Point]:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _prohibition(pen: _Pen) -> None:
    pen.disc(1.0, pen.field)
    pen.disc(0.97, _RED)
    pen.disc(0.97 - 0.22 * pen.weight, pen.field)


def _triangle(scale: float, *, up: bool) -> list[Point]:
    sign = -1.0 if up else 1.0
    return [(x * scale, sign * (y * scale - 0.2)) for x, y in ((-1.0, -0.62), (1.0, -0.62), (0.0, 1.12))]


def _warning(pen: _Pen) -> None:
    pen.polygon(_triangle(1.0, up=True), _RED)
    pen.polygon(_triangle(1.0 - 0.3 * pen.weight, up=True), pen.field)


def _panel(pen: _Pen) -> None:
    pen.box((-0.94, -0.94), (0.94, 0.94), _WHITE, radius=0.16)
    pen.box((-0.88, -0.88), (0.88, 0.88), _BLUE, radius=0.12)


def _command(pen: _Pen) -> None:
    pen.disc(0.98, _WHITE)
    pen.disc(0.92, _BLUE)


def _stop(pen: _Pen) -> None:
    pen.polygon(_regular(8, 1.04, math.pi / 8), _WHITE)
    pen.polygon(_regular(8, 0.96, math.pi / 8), _RED)
    pen.text("STOP", 0.66, 0.035, _WHITE)


def _yield(pen: _Pen) -> None:
    pen.polygon(_triangle(1.0, up=False), _RED)
    pen.polygon(_triangle(1.0 - 0.42 * pen.weight, up=False), pen.field)


def _speed(limit: str) -> Callable[[_Pen], None]:
    def draw(pen: _Pen) -> None:
        _prohibition(pen)
        pen.text(limit, 0.98, 0.05, _BLACK)

    return draw


def _no_entry(pen: _Pen) -> None:
    pen.disc(1.0, _WHITE)
    pen.disc(0.95, _RED)
    pen.box((-0.7, -0.17 * pen.weight), (0.7, 0.17 * pen.weight), _WHITE)


def _priority_road(pen: _Pen) -> None:
    pen.polygon(_regular(4, 1.03, 0.0), _BLACK)
    pen.polygon(_regular(4, 0.98, 0.0), _WHITE)
    pen.polygon(_regular(4, 0.66 / pen.weight, 0.0), _YELLOW)


def _crossing(pen: _Pen) -> None:
    _panel(pen)
    pen.polygon([(-0.8, 0.68), (0.8, 0.68), (0.0, -0.76)], _WHITE)
    pen.disc(0.12 * pen.weight, _BLACK, (0.02, -0.26))
    stroke = 0.13 * pen.weight
    pen.line([(0.0, -0.12), (-0.02, 0.22)], 0.2 * pen.weight, _BLACK)
    pen.line([(-0.02, 0.18), (-0.24, 0.58)], stroke, _BLACK)
    pen.line([(-0.02, 0.18), (0.12, 0.36), (0.22, 0.58)], stroke, _BLACK)
    pen.line([(-0.26, 0.18), (0.0, -0.06), (0.24, 0.16)], 0.1 * pen.weight, _BLACK)


def _curve(side: float) -> Callable[[_Pen], None]:
    def draw(pen: _Pen) -> None:
        _warning(pen)
        bend = [(-0.22, 0.56), (-0.22, 0.2), (-0.15, 0.06), (0.0, -0.04), (0.12, -0.12)]
        pen.arrow([(side * x, y) for x, y in bend], 0.2 * pen.weight, _BLACK)

    return draw


def _roundabout(pen: _Pen) -> None:
    _command(pen)
    for start in (-80, 40, 160):
        pen.arc(0.64, start, start + 78, 0.2 * pen.weight, _WHITE)
        angle = math.radians(start + 78)
        x, y = math.cos(angle), math.sin(angle)
        middle = 0.64 - 0.1 * pen.weight
        base, spread = (middle * x, middle * y), 0.25
        tip = (base[0] - 0.36 * y, base[1] + 0.36 * x)
        pen.polygon(
            [(base[0] + spread * x, base[1] + spread * y), (base[0] - spread * x, base[1] - spread * y), tip],
            _WHITE,
        )


def _parking(pen: _Pen) -> None:
    _panel(pen)
    pen.text("P", 1.42, 0.07, _WHITE)


def _no_overtaking(pen: _Pen) -> None:
    _prohibition(pen)
    for x, colour in ((-0.31, _RED), (0.31, _BLACK)):
        pen.box((x - 0.18, -0.26), (x + 0.18, 0.06), colour, radius=0.1)
        pen.box((x - 0.28, -0.04), (x + 0.28, 0.25), colour, radius=0.06)
        pen.box((x - 0.26, 0.2), (x - 0.13, 0.36), colour)
        pen.box((x + 0.13, 0.2), (x + 0.26, 0.36), colour)


def _dead_end(pen: _Pen) -> None:
    _panel(pen)
    pen.box((-0.15 * pen.weight, -0.2), (0.15 * pen.weight, 0.88), _WHITE)
    pen.box((-0.52, -0.56), (0.52, -0.2), _WHITE)
    pen.box((-0.46, -0.5), (0.46, -0.26), _RED)


def _keep_right(pen: _Pen) -> None:
    _command(pen)
    pen.arrow([(-0.5, -0.5), (0.3, 0.3)], 0.28 * pen.weight, _WHITE)


def _end_of_limits(pen: _Pen) -> None:
    pen.disc(1.0, _BLACK)
    pen.disc(0.94, pen.field)
    for offset in (-0.26, 0.0, 0.26):
        reach = math.sqrt(0.93**2 - offset**2) / math.sqrt(2)
        shift = offset / math.sqrt(2)
        pen.line([(shift - reach, shift + reach), (shift + reach, shift - reach)], 0.11 * pen.weight, _BLACK)


_FACES: dict[str, Callable[[_Pen], None]] = {
    "stop": _stop,
    "yield": _yield,
    "speed limit 30": _speed("30"),
    "speed limit 50": _speed("50"),
    "speed limit 80": _speed("80"),
    "no entry": _no_entry,
    "priority road": _priority_road,
    "pedestrian crossing": _crossing,
    "curve left": _curve(-1.0),
    "curve right": _curve(1.0),
    "roundabout": _roundabout,
    "parking": _parking,
    "no overtaking": _no_overtaking,
    "dead end": _dead_end,
    "keep right": _keep_right,
    "end of limits": _end_of_limits,
}

SIGN_NAMES: tuple[str, ...] = tuple(_FACES)
"""Names of the classes; the label is the index."""


@cache
def sign_face(label: int, variant: int, size: int = FACE_SIZE) -> Image.Image:
    """Return the face of one class as a square RGBA image of ``size`` pixels.

    label: index into ``SIGN_NAMES``. variant: 0 to ``VARIANTS - 1``. The image is cached: do not modify it.
    """
    pen = _Pen(variant, _OVERSAMPLING * size)
    _FACES[SIGN_NAMES[label]](pen)
    return pen.image.resize((size, size), Image.Resampling.LANCZOS)
