"""Image files: decode untrusted files safely, write results as PNG."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from maskrestore.errors import ImageFileError, InvalidImageError
from maskrestore.imaging.formats import open_picture
from maskrestore.imaging.inputs import as_batch
from maskrestore.imaging.metadata import read_png, without_metadata
from maskrestore.runtime.files import replaced_atomically

__all__ = [
    "MAX_PIXELS",
    "DecodedImage",
    "as_picture",
    "decode_image",
    "is_grey",
    "open_image_file",
    "read_image",
    "read_image_file",
    "read_image_stream",
    "write_png",
]

MAX_PIXELS = 64_000_000
"""Default limit on the pixels of an image: more than a photograph has, few enough to hold several in memory."""

# Files of these formats may hold further pictures, such as the preview or the depth map that phones add. Only the first
# is used, which is the one that viewers show. (Pillow calls a JPEG "MPO" when it contains a second picture.)
_STILL_FORMATS = ("MPO", "HEIF")

_NEW_SUBFILE_TYPE = 254
"""A tag of TIFF. Its lowest bit marks a smaller version of another image in the file."""

_PNG_LEVEL = 4
"""zlib's compression level. Writing a photograph takes 40 % of the time of Pillow's default; the file is 3 % larger."""

_16_BITS = re.compile(";16[BLN]$")
"""Of Pillow's names for the layout of pixels. `BGR;16` is another: 16 bits for all channels together."""

_REDUCED, _FAULTY_METADATA = "16 bits a channel, read with 8", "faulty metadata, which was ignored"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation: how to turn the stored pixels."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """What a file holds."""

    pixels: Tensor
    """``(3, H, W)``, or ``(1, H, W)`` for a grey image if asked for: float32 in [0, 1]."""
    bits: int
    """8 or 16: bits of each value that ``pixels`` distinguish."""
    notes: tuple[str, ...] = ()
    """What was lost or could not be read, for people."""


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, keep_grey: bool = False) -> Tensor:
    """Read and decode one still image; see :func:`decode_image`.

    Raises ImageFileError, with the path in the message, for a file that is missing, cannot be read, or that
    :func:`decode_image` refuses.
    """
    return read_image_file(path, max_pixels=max_pixels, keep_grey=keep_grey).pixels


def read_image_file(path: str | Path, *, max_pixels: int = MAX_PIXELS, keep_grey: bool = False) -> DecodedImage:
    """Do the same as :func:`read_image`, and also say how deep the pixels are and what was lost."""
    try:
        with open_image_file(Path(path)) as stream:
            return read_image_stream(stream, name=str(path), max_pixels=max_pixels, keep_grey=keep_grey)
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_image_file(path: Path) -> BinaryIO:
    """Open a file to read. Raises ImageFileError for what is no file, OSError if it cannot be opened."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a pipe, socket or device" if path.exists() else "no file"
        raise ImageFileError(f"{path}: expected an image file, found {found}")
    return path.open("rb")


def read_image_stream(
    stream: BinaryIO, *, name: str = "image", max_pixels: int = MAX_PIXELS, keep_grey: bool = False
) -> DecodedImage:
    """Do the same as :func:`decode_image` with a file that is open, which stays open."""
    return _decode(stream, name, max_pixels, keep_grey)


def decode_image(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS, keep_grey: bool = False) -> Tensor:
    """Decode one still image: PNG, JPEG, WebP, AVIF, HEIC, TIFF, GIF, BMP, JPEG 2000, PPM or QOI.

    data: the content of the file, which alone decides on the format; HEIC needs the extra ``heic``. What is not read,
    and why, is at the top of ``imaging/formats.py``. name: what error messages call the file. max_pixels: largest
    ``H * W``. The size is read from the header and checked before the pixels are decompressed.

    Returns ``(3, H, W)`` float32 in [0, 1]; with ``keep_grey``, ``(1, H, W)`` for a grey image. EXIF orientation is
    applied, palette and CMYK images become RGB, 16-bit grey keeps its precision (Pillow reads 16-bit colour with 8),
    and transparent images are composited over white. Faulty metadata does not matter: if the orientation cannot be
    read, the pixels are as stored.

    Raises ImageFileError for truncated or corrupt pixels, animated or multi-page files, other formats, and images of
    more than ``max_pixels``. Above 179 million pixels Pillow refuses an image whatever ``max_pixels`` is.
    """
    return _decode(io.BytesIO(data), name, max_pixels, keep_grey).pixels


def write_png(path: str | Path, image: object, *, bits: int = 8) -> None:
    """Write one image as a PNG; each value is rounded to the nearest of 256 levels, or of 65536 with 16 bits.

    image: one image in any form that :func:`~maskrestore.imaging.inputs.as_batch` takes. bits: 8, or 16 for a grey
    image, also one of three equal channels. (Pillow writes and reads colours with 8 bits.) The file is written under a
    temporary name and then renamed, so that ``path`` never holds an incomplete file. :func:`read_image` returns uint8
    pixels, and floats that are multiples of 1/255 (of 1/65535 with 16 bits), bit for bit.

    Raises ImageFileError if the image is invalid or the file cannot be written.
    """
    path = Path(path)
    try:
        batch = as_batch(image)
        if len(batch) != 1:
            raise InvalidImageError(f"expected one image, got {len(batch)}")
        picture = as_picture(batch[0], bits=bits)
        with replaced_atomically(path) as temporary:
            picture.save(temporary, format="PNG", compress_level=_PNG_LEVEL)
    except (InvalidImageError, OSError) as error:
        raise ImageFileError(f"{path}: cannot be written: {error}") from error


def is_grey(image: Tensor) -> bool:
    """Whether an image ``(C, H, W)`` has one channel, or three equal ones."""
    return len(image) == 1 or bool((image[0] == image[1]).all() and (image[0] == image[2]).all())


def as_picture(image: Tensor, *, bits: int = 8) -> Image.Image:
    """``(C, H, W)`` in [0, 1] as a picture of Pillow, rounded to 8 bits, or to 16 if it is grey.

    Raises InvalidImageError for different channels with 16 bits.
    """
    if bits == 16:
        if not is_grey(image):
            raise InvalidImageError("expected a grey image to write with 16 bits, got different channels")
        return Image.fromarray(np.rint(image[0].numpy().astype(np.float64) * 65535).astype(np.uint16))
    levels = image.mul(255).round_().byte().permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def _decode(stream: BinaryIO, name: str, max_pixels: int, keep_grey: bool) -> DecodedImage:
    try:
        try:
            return _decode_once(stream, name, max_pixels, keep_grey)
        except InvalidImageError:
            raise
        except Exception:
            plain = without_metadata(stream)
            if plain is None:
                raise
            decoded = _decode_once(plain, name, max_pixels, keep_grey)
            return replace(decoded, notes=tuple(dict.fromkeys((*decoded.notes, _FAULTY_METADATA))))
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError(f"{name}: its header is corrupt") from error
    except InvalidImageError as error:
        raise ImageFileError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions for corrupt files
        raise ImageFileError(f"{name}: truncated, corrupt or unsafe: {error}") from error


def _decode_once(stream: BinaryIO, name: str, max_pixels: int, keep_grey: bool) -> DecodedImage:
    with open_picture(stream, name) as image:
        _check_header(image, name, max_pixels)
        if image.format == "PNG":
            place = stream.tell()
            read_png(stream)
            stream.seek(place)
        notes = [_REDUCED] if not image.mode.startswith("I") and _has_more_than_8_bits(image) else []
        upright, exif_is_sound = _upright(image)
        pixels = as_batch(upright)[0]
        bits = 16 if upright.mode.startswith("I") else 8
    if not keep_grey and len(pixels) == 1:
        pixels = pixels.repeat(3, 1, 1)  # (1, H, W) -> (3, H, W)
    return DecodedImage(pixels=pixels, bits=bits, notes=tuple(notes if exif_is_sound else [*notes, _FAULTY_METADATA]))


def _check_header(header: Image.Image, name: str, max_pixels: int) -> None:
    width, height = header.size
    if width * height > max_pixels:
        raise ImageFileError(
            f"{name}: {width} x {height} = {width * height} pixels, expected at most {max_pixels}; "
            "shrink it or raise max_pixels"
        )
    if getattr(header, "is_animated", False) and header.format not in _STILL_FORMATS:
        raise ImageFileError(
            f"{name}: an animated or multi-page {header.format}, expected one still image; extract a frame first"
        )
    if header.format == "TIFF" and header.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1:  # type: ignore[attr-defined]
        raise ImageFileError(
            f"{name}: its first image is a preview, as in a camera's raw file; develop it to PNG first"
        )


def _has_more_than_8_bits(image: Image.Image) -> bool:
    """Whether the file of an opened image has more than 8 bits a channel: Pillow keeps what its decoders are told."""
    for tile in getattr(image, "tile", ()):
        told = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        # The first is the layout of the pixels; the second of PPM is the level of white.
        if _16_BITS.search(str(told[0])) or (tile[0].startswith("ppm") and told[1] > 255):
            return True
    return False


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Decode an opened image and turn it as its EXIF orientation says; False if the EXIF data cannot be read.

    Pillow's ``exif_transpose`` also writes the EXIF data anew, which fails where they are faulty.
    """
    if image.format != "TIFF":
        image.load()  # a PNG may have EXIF data behind its pixels
    exif, readable = Image.Exif(), True
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation in _UPRIGHT:
            exif[ExifTags.Base.Orientation] = orientation
    except Exception:
        readable = False
    # To load a TIFF is to turn it. It shall do so with the orientation alone.
    image.getexif = lambda: exif  # type: ignore[method-assign]
    image.load()
    turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    return (image if turn is None else image.transpose(turn)), readable
