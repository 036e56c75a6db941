"""Cut metadata out of image files, for those that Pillow refuses because of them, and check what is left of a PNG."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from maskrestore.imaging.formats import START, format_of

__all__ = ["read_png", "without_metadata"]

_PNG_CHUNKS_OF_PIXELS = (b"tRNS", b"acTL", b"eXIf")
"""Chunks that a decoder may skip, but that change the picture: transparency, animation, and orientation."""

_START_OF_SCAN, _COMMENT, _APP1, _APP14, _APP15 = 0xDA, 0xFE, 0xE1, 0xEE, 0xEF
"""Markers of JPEG. APP0 and APP14 say how colours are stored."""


def without_metadata(stream: BinaryIO) -> BinaryIO | None:
    """A copy of a PNG or a JPEG that holds only what its pixels depend on; ``None`` for other formats.

    Raises OSError for a PNG with a wrong checksum, and for a file that ends early.
    """
    stream.seek(0)
    kind = format_of(stream.read(START))
    if kind not in ("PNG", "JPEG"):
        return None
    copy = io.BytesIO()
    if kind == "PNG":
        read_png(stream, copy)
    else:
        _copy_jpeg(stream, copy)
    copy.seek(0)
    return copy


def read_png(stream: BinaryIO, copy: io.BytesIO | None = None) -> None:
    """Compare the checksums of the chunks of a PNG that its pixels depend on, which decoding does not.

    copy: gets these chunks. What follows the pixels does not matter. Raises OSError if a checksum is wrong or the file
    ends before its pixels.
    """
    stream.seek(0)
    signature = stream.read(8)
    if copy is not None:
        copy.write(signature)
    has_pixels, kind = False, b""
    while kind != b"IEND":
        head = stream.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind[:1].islower() and kind not in _PNG_CHUNKS_OF_PIXELS:
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        if has_pixels and kind != b"IDAT":
            return
        body = stream.read(length)
        checksum = stream.read(4)
        if len(checksum) < 4:
            raise OSError("the file ends early")
        is_sound = zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(checksum, "big")
        if not is_sound and kind != b"eXIf":
            raise OSError(f"wrong checksum in {kind.decode('latin-1')}")
        if is_sound and copy is not None:
            copy.write(head + body + checksum)
        has_pixels = has_pixels or kind == b"IDAT"


def _copy_jpeg(stream: BinaryIO, copy: io.BytesIO) -> None:
    """Copy a JPEG without its comments and the segments of applications, but for EXIF data and those of colours."""
    stream.seek(0)
    copy.write(stream.read(2))
    marker = 0
    while marker != _START_OF_SCAN:
        head = stream.read(4)
        while head[1:2] == b"\xff":  # filling
            head = head[1:] + stream.read(1)
        if len(head) < 4 or head[0] != 0xFF:
            raise OSError("the file ends early")
        marker, length = head[1], int.from_bytes(head[2:], "big")
        body = stream.read(max(0, length - 2))
        is_metadata = marker == _COMMENT or (_APP1 <= marker <= _APP15 and marker != _APP14)
        if not is_metadata or (marker == _APP1 and body.startswith(b"Exif\0\0")):
            copy.write(head + body)
    copy.write(stream.read())
