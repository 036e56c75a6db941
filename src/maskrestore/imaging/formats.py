"""The formats of pictures: which are read, and how to tell them by the first bytes of a file.

Read are the still formats that people keep pictures in, each with a decoder that is maintained. Left out on purpose:

- formats that run another program or hold vector graphics (EPS, WMF, SVG, PDF);
- files with several pictures or layers, of which none is *the* picture (icons, Photoshop files, animations);
- formats without a signature, which any bytes could pass for (TGA, PCD), and formats of science and of games, whose
  numbers are no colours (FITS, DICOM, OpenEXR, DDS).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, features

from maskrestore.errors import ImageFileError, MissingDependencyError

__all__ = ["START", "SUFFIXES", "format_of", "open_picture", "why_unreadable"]

START = 512
"""Bytes that :func:`format_of` looks at."""

SUFFIXES = frozenset(
    [
        *(".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tif", ".tiff", ".webp"),
    ]
)
"""Suffixes that promise a picture, in upper or lower case. Files without one are taken by their first bytes."""

READ = ("PNG", "JPEG", "WEBP", "AVIF", "HEIC", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "QOI")
"""The formats that are read, AVIF with Pillow 11.3 or newer, HEIC with the extra ``heic``."""

_HEADER_SIZES_OF_BMP = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+\d")
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<[?!][^\0]*)?<svg[\s>/]")
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"qoif": "QOI",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF-": "PDF",
    b"\0\0\1\0": "icon",
    b"icns": "icon",
    b"DDS ": "DDS",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance",
    b"#?RGBE": "Radiance",
    b"PF\n": "floating-point PFM",
    b"Pf\n": "floating-point PFM",
    b"SIMPLE  =": "FITS",
    b"II\xbc\x01": "JPEG XR",
    b"FUJIFILMCCD-RAW": "raw camera",
    b"IIRO": "raw camera",
    b"IIU\0": "raw camera",
}
_OTHER_SIGNS: dict[str, Callable[[bytes], object]] = {
    "WEBP": lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP",
    "BMP": lambda start: start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _HEADER_SIZES_OF_BMP,
    "PPM": _PPM.match,
    "SVG": _SVG.match,
    "DICOM": lambda start: start[128:132] == b"DICM",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def format_of(start: bytes) -> str | None:
    """The format of a picture that begins with these bytes, ``None`` if they are no picture's.

    start: the first :data:`START` bytes of a file, or all if it is shorter. It may be a format that is not read.
    """
    if start[4:8] == b"ftyp":
        return _iso_format(start)
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name
    return next((name for name, holds in _OTHER_SIGNS.items() if holds(start)), None)


def _iso_format(start: bytes) -> str | None:
    """Of a file of boxes, by its brands: the major one, a version, and those it is compatible with."""
    size = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[place : place + 4] for place in range(16, min(size, len(start)), 4))]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if b"crx " in brands:
        return "raw camera"
    return "HEIC" if brands[0] in _HEIF_BRANDS else None


def why_unreadable(name: str) -> str | None:
    """Why a format that :func:`format_of` returns is not read, and what to do about it; ``None`` if it is read."""
    if name == "HEIC" and importlib.util.find_spec("pillow_heif") is None:
        return f"HEIC picture ({MissingDependencyError('pillow_heif', 'heic')})"
    if name == "AVIF" and not _has_avif():
        return "AVIF picture (Pillow 11.3 or newer is needed for this; install it with: pip install 'pillow>=11.3')"
    return None if name in READ else f"{name} file, which is not read (convert it to PNG)"


@functools.cache
def _has_avif() -> bool:
    return "avif" in features.get_supported()


def open_picture(stream: BinaryIO, name: str) -> Image.Image:
    """Read the header of a picture, chosen by its content and not by its name.

    Raises ImageFileError for what is no picture or in a format that is not read, and what Pillow's decoders raise.
    """
    start = stream.read(START)
    stream.seek(0)
    if not start:
        raise ImageFileError(f"{name}: not an image: the file is empty")
    kind = format_of(start)
    if kind is None:
        raise ImageFileError(f"{name}: not an image in {', '.join(READ)} format, or its header is corrupt")
    unreadable = why_unreadable(kind)
    if unreadable is not None:
        raise ImageFileError(f"{name}: {unreadable}")
    if kind != "HEIC":
        return Image.open(stream, formats=[kind])
    # Not registered with Pillow, which would change it for the whole process.
    from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra

    opened: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return opened
