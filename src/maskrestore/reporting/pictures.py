"""Tensors to small 8-bit pictures: thumbnails, score maps in colour, the hidden tokens, what was removed."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from maskrestore.errors import InvalidImageError

__all__ = [
    "MAX_SIDE",
    "Picture",
    "colourise",
    "data_uri",
    "difference",
    "mark_hidden",
    "png_bytes",
    "thumbnail",
    "viridis_css",
]

Picture = npt.NDArray[np.uint8]
"""``(h, w, 3)``: an RGB picture."""

MAX_SIDE = 224
"""Longest side of a picture in a report; larger images are reduced to it."""

# Matplotlib's viridis (CC0) at 18 equidistant points; between them it is linear to within two percent.
_VIRIDIS = (
    *("440154", "481769", "472a7a", "433d84", "3d4e8a", "355e8d", "2e6d8e", "297b8e", "23898e"),
    *("1f978b", "21a585", "2eb37c", "46c06f", "65cb5e", "89d548", "b0dd2f", "d8e219", "fde725"),
)
_ANCHORS = np.asarray([list(bytes.fromhex(colour)) for colour in _VIRIDIS], np.float64)  # (18, 3)
_HIDDEN_COLOUR = np.asarray((255, 176, 0), np.float64)  # amber: apart from grey for every kind of colour vision
_DIFFERENCE_GAIN = 2.0


def colourise(scores: npt.NDArray[np.floating]) -> Picture:
    """Colour a score map ``(g, g)`` with viridis: 0 is dark violet, 1 yellow.

    The scale is the same for every map, so that maps can be compared. Values outside [0, 1] take the colour
    of the nearer end, NaN that of 0.
    """
    values = np.clip(np.nan_to_num(scores.astype(np.float64), nan=0.0), 0.0, 1.0) * (len(_ANCHORS) - 1)
    points = np.arange(len(_ANCHORS))
    channels = [np.interp(values, points, _ANCHORS[:, channel]) for channel in range(3)]
    return _to_uint8(np.stack(channels, axis=-1))  # 3 x (g, g) -> (g, g, 3)


def viridis_css() -> str:
    """Return the colour stops of the scale, from 0 to 1, for a CSS gradient."""
    return ", ".join(f"#{colour}" for colour in _VIRIDIS)


def thumbnail(image: Tensor) -> Picture:
    """Turn an image ``(1 or 3, H, W)`` in [0, 1] into a picture with sides of at most ``MAX_SIDE``.

    Raises:
        InvalidImageError: for another rank or number of channels.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        expected = "(1 or 3, height, width)"
        raise InvalidImageError(f"a picture needs an image of shape {expected}, got {tuple(image.shape)}")
    levels = _to_uint8(image.detach().float().cpu().clamp(0, 1).numpy() * 255.0)
    pixels = np.broadcast_to(levels.transpose(1, 2, 0), (*levels.shape[1:], 3))  # (C, H, W) -> (H, W, 3)
    height, width = pixels.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1.0:
        return np.ascontiguousarray(pixels)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels.copy()).resize(size, Image.Resampling.BOX))


def mark_hidden(picture: Picture, hidden: npt.NDArray[np.bool_]) -> Picture:
    """Show a picture in dim grey with the hidden tokens ``(g, g)`` in amber."""
    height, width = picture.shape[:2]
    rows = (np.arange(height) * 2 + 1) * hidden.shape[0] // (2 * height)  # the token under each pixel's centre
    columns = (np.arange(width) * 2 + 1) * hidden.shape[1] // (2 * width)
    covered = hidden[rows[:, None], columns[None, :], None]  # (g, g) -> (h, w, 1)
    grey = picture.astype(np.float64).mean(axis=-1, keepdims=True)
    return _to_uint8(np.where(covered, 0.75 * _HIDDEN_COLOUR + 0.25 * grey, 15.0 + 0.55 * grey))


def difference(before: Picture, after: Picture) -> Picture:
    """Show the absolute change of each channel, doubled: black where nothing changed."""
    change = np.abs(after.astype(np.float64) - before.astype(np.float64))
    return _to_uint8(np.minimum(change * _DIFFERENCE_GAIN, 255.0))


def png_bytes(picture: Picture) -> bytes:
    """Encode a picture as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(picture: Picture) -> str:
    """Encode a picture as a PNG in a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode("ascii")


def _to_uint8(values: npt.NDArray[np.floating]) -> Picture:
    levels: Picture = np.rint(values).astype(np.uint8)
    return levels
