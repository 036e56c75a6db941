"""A PNG panel: one row per image, one column per picture, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskrestore.errors import ConfigError
from maskrestore.reporting.columns import Column, columns_for
from maskrestore.reporting.entries import ReportEntry
from maskrestore.reporting.names import class_label, printable
from maskrestore.reporting.pictures import Picture, colourise

__all__ = ["write_figure"]

_GAP, _MARGIN = 8, 20
_TEXT_WIDTH = 210
_HEAD, _FOOT = 34, 44
_INK, _SOFT, _GOOD, _BAD = "#1a1f27", "#565f6c", "#12693f", "#a3231c"


def write_figure(
    path: Path | str,
    entries: Sequence[ReportEntry],
    *,
    class_names: Sequence[str] | None = None,
    max_rows: int = 8,
    tile: int = 128,
) -> Path:
    """Write a panel of the first ``max_rows`` entries that have pictures, and return its path.

    Each row shows the name, the label before and after, and the pictures of its columns, ``tile`` pixels a
    side; columns that no entry has are left out, as :func:`columns_for` says.

    Raises:
        ConfigError: if no entry has pictures, or a size is not positive.
    """
    for name, value in (("max_rows", max_rows), ("tile", tile)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; expected at least 1")
    shown = [entry for entry in entries if entry.evidence is not None][:max_rows]
    if not shown:
        raise ConfigError(f"a figure needs an entry with pictures; got {len(entries)} entries without any")
    columns = columns_for(shown)
    width = 2 * _MARGIN + _TEXT_WIDTH + len(columns) * (tile + _GAP)
    canvas = Image.new("RGB", (width, 2 * _MARGIN + _HEAD + len(shown) * (tile + _GAP) + _FOOT), "white")
    draw = ImageDraw.Draw(canvas)
    for position, column in enumerate(columns):
        _heading(draw, _left(position, tile) + tile // 2, column)
    for row, entry in enumerate(shown):
        top = _MARGIN + _HEAD + row * (tile + _GAP)
        _words(draw, top + tile // 2, entry, class_names)
        for position, column in enumerate(columns):
            _paste(canvas, (_left(position, tile), top), tile, entry, column)
    _scale(canvas, draw, top=canvas.height - _MARGIN - 20)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, "PNG", optimize=True)
    return path


def _left(position: int, tile: int) -> int:
    return _MARGIN + _TEXT_WIDTH + _GAP + position * (tile + _GAP)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _heading(draw: ImageDraw.ImageDraw, centre: int, column: Column) -> None:
    parts = [
        (column.symbol, 18, 0),
        (column.index, 13, 5),
        (f" {column.stage}" if column.stage else "", 18, 0),
    ]
    x = centre - sum(draw.textlength(text, _font(size)) for text, size, _ in parts) / 2
    for text, size, drop in parts:
        draw.text((x, _MARGIN + 20 + drop), text, _INK, _font(size), anchor="ls")
        x += draw.textlength(text, _font(size))


def _words(draw: ImageDraw.ImageDraw, middle: int, entry: ReportEntry, class_names: Sequence[str] | None) -> None:
    """Write the name, the labels before and after, and the true label, on up to four lines."""
    original = entry.label if entry.original_label is None else entry.original_label
    before, after = (class_label(label, class_names) for label in (original, entry.label))
    colour = _INK if entry.true_label is None else (_GOOD if entry.label == entry.true_label else _BAD)
    lines = [(printable(" · ".join(filter(None, (entry.name, entry.note)))), 15, _SOFT), (before, 19, _INK)]
    if entry.original_label is not None:
        lines.append((f"→ {after}" if entry.changed else "label unchanged", 19 if entry.changed else 15, colour))
    if entry.true_label is not None:
        lines.append((f"true: {class_label(entry.true_label, class_names)}", 15, _SOFT))
    y = middle - 12 * (len(lines) - 1)
    for text, size, ink in lines:
        _fitted(draw, y, text, size, ink)
        y += 24


def _fitted(draw: ImageDraw.ImageDraw, y: int, text: str, size: int, ink: str) -> None:
    """Write a line, cut to the width of the text column, with its arrow drawn instead of typed."""
    x = _MARGIN
    if text.startswith("→ "):
        text = text[2:]
        draw.line([(x, y), (x + 14, y)], ink, width=2)
        draw.polygon([(x + 12, y - 5), (x + 19, y), (x + 12, y + 5)], ink)
        x += 26
    room = _MARGIN + _TEXT_WIDTH - x
    font = _font(size)
    if draw.textlength(text, font) > room:
        while text and draw.textlength(text + "...", font) > room:
            text = text[:-1]
        text += "..."
    draw.text((x, y), text, ink, font, anchor="lm")


def _paste(canvas: Image.Image, corner: tuple[int, int], tile: int, entry: ReportEntry, column: Column) -> None:
    assert entry.evidence is not None
    drawn = column.draw(entry.evidence)
    if drawn is None:
        return
    height, width = entry.evidence.size
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = _resized(drawn[0], size)
    canvas.paste(picture, (corner[0] + (tile - size[0]) // 2, corner[1] + (tile - size[1]) // 2))


def _resized(picture: Picture, size: tuple[int, int]) -> Image.Image:
    grows = size[0] >= picture.shape[1]
    return Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.BOX)


def _scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, *, top: int) -> None:
    """Draw the colour scale of the score maps."""
    ramp = np.linspace(0.0, 1.0, 200, dtype=np.float32)[None].repeat(14, axis=0)
    x = _MARGIN + _TEXT_WIDTH + _GAP
    draw.text((x, top + 7), "score 0", _SOFT, _font(15), anchor="lm")
    x += int(draw.textlength("score 0", _font(15))) + 8
    canvas.paste(Image.fromarray(colourise(ramp)), (x, top))
    draw.text((x + 208, top + 7), "1", _SOFT, _font(15), anchor="lm")
