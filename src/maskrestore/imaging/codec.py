"""Image files: decode untrusted files safely, write results as PNG."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskrestore.errors import ImageFileError, InvalidImageError
from maskrestore.imaging.inputs import as_batch

__all__ = ["MAX_PIXELS", "SUFFIXES", "decode_image", "find_images", "read_image", "walk_images", "write_png"]

MAX_PIXELS = 64_000_000
"""Default limit on the pixels of an image: more than a photograph has, few enough to hold several in memory."""

SUFFIXES = frozenset(
    (
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)
"""Suffixes of the files that :func:`find_images` looks for in folders, in upper or lower case."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Pillow calls a JPEG "MPO" when it contains a second picture, such as the preview or depth map that phones add.
# Only the first picture is used, which is the one that viewers show.
_STILL_FORMATS = ("MPO",)

_PNG_LEVEL = 4
"""zlib's compression level. Writing a photograph takes 40 % of the time of Pillow's default; the file is 3 % larger."""


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, keep_grey: bool = False) -> Tensor:
    """Read and decode one still image; see :func:`decode_image`.

    Raises ImageFileError, with the path in the message, for a file that is missing, cannot be read, or that
    :func:`decode_image` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageFileError(f"{path}: expected an image file, found {'a folder' if path.is_dir() else 'no file'}")
    try:
        with path.open("rb") as stream:
            return _decode(stream, str(path), max_pixels, keep_grey)
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode_image(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS, keep_grey: bool = False) -> Tensor:
    """Decode one still image: PNG, JPEG, WebP, BMP, TIFF, GIF or PPM.

    data: the content of the file. name: what error messages call the file. max_pixels: largest ``H * W``. The size is
    read from the header and checked before the pixels are decompressed.

    Returns ``(3, H, W)`` float32 in [0, 1]; with ``keep_grey``, ``(1, H, W)`` for a grey image. EXIF orientation is
    applied, palette and CMYK images become RGB, 16-bit grey keeps its precision, and transparent images are composited
    over white.

    Raises ImageFileError for truncated or corrupt files, animated or multi-page files, other formats, and images of
    more than ``max_pixels``. Above 179 million pixels Pillow refuses an image whatever ``max_pixels`` is.
    """
    return _decode(io.BytesIO(data), name, max_pixels, keep_grey)


def write_png(path: str | Path, image: object) -> None:
    """Write one image as an 8-bit PNG; each value is rounded to the nearest of 256 levels.

    image: one image in any form that :func:`~maskrestore.imaging.inputs.as_batch` takes. The file is written under a
    temporary name and then renamed, so that ``path`` never holds an incomplete file. :func:`read_image` returns uint8
    pixels, and floats that are multiples of 1/255, bit for bit.

    Raises ImageFileError if the image is invalid or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        batch = as_batch(image)
        if len(batch) != 1:
            raise InvalidImageError(f"expected one image, got {len(batch)}")
        levels = batch[0].mul(255).round().byte().permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
        Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(
            temporary, format="PNG", compress_level=_PNG_LEVEL
        )
        temporary.replace(path)
    except (InvalidImageError, OSError) as error:
        raise ImageFileError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def find_images(path: str | Path) -> list[Path]:
    """The files that :func:`walk_images` yields, sorted by path. Raises ImageFileError as it does."""
    return sorted(walk_images(path))


def walk_images(
    path: str | Path, *, leave_out: Path | None = None, skipped: Callable[[str], None] = warnings.warn
) -> Iterator[Path]:
    """Yield ``path`` if it is a file, whatever its name; else every image file below the folder.

    Image files are those with a suffix in :data:`SUFFIXES`. They come in no particular order and are not collected
    first, so a folder may hold millions of files. Hidden files and folders and the folder ``leave_out`` are skipped;
    links to folders are not followed. skipped: called with a message for each subfolder that cannot be read.

    Raises ImageFileError while iterating: if nothing is at ``path``, if the folder cannot be read, or, at the end, if
    it held no image.
    """
    path = Path(path)
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ImageFileError(f"{path}: expected an image or a folder of images, found nothing")
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    found = False
    for file in _files_below(path, None if leave_out is None else leave_out.resolve(), skipped):
        if os.path.splitext(file)[1].lower() in SUFFIXES:
            found = True
            yield Path(file)
    if not found:
        raise ImageFileError(f"{path}: no images in this folder; looked for {' '.join(sorted(SUFFIXES))}")


def _files_below(folder: str | Path, leave_out: Path | None, skipped: Callable[[str], None]) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:  # deleted since its parent was listed
        return
    except OSError as error:
        skipped(f"{folder} is left out: it cannot be read ({error.strerror or error})")
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if Path(entry.path).resolve() != leave_out:
                    yield from _files_below(entry.path, leave_out, skipped)
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                yield entry.path


def _decode(stream: BinaryIO, name: str, max_pixels: int, keep_grey: bool) -> Tensor:
    try:
        with Image.open(stream, formats=_FORMATS) as header:
            _check_header(header, name, max_pixels)
            header.verify()  # compares checksums, which decoding does not
        stream.seek(0)
        with Image.open(stream, formats=_FORMATS) as image:
            pixels = as_batch(ImageOps.exif_transpose(image))[0]
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError(
            f"{name}: not an image in {', '.join(_FORMATS)} format, or its header is corrupt"
        ) from error
    except InvalidImageError as error:
        raise ImageFileError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions for corrupt files
        raise ImageFileError(f"{name}: truncated, corrupt or unsafe: {error}") from error
    return pixels if keep_grey or len(pixels) == 3 else pixels.repeat(3, 1, 1)  # (1, H, W) -> (3, H, W)


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
