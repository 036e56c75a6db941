"""Mutated picture files: each is refused with an ImageFileError, or decodes to what Pillow makes of it."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features

from fuzzing.guard import Outcome, guarded
from maskrestore.errors import ImageFileError
from maskrestore.imaging.codec import MAX_PIXELS, decode_image
from maskrestore.imaging.formats import READ, START, format_of

MAX_COMPARED_PIXELS = 2**20
"""Larger pictures are not compared with Pillow's, which takes memory of its own."""

BOUNDARIES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def fuzz(seconds: float, seed: int) -> Outcome:
    """Decode mutated files until the time is up."""
    return guarded(check, mutants(seed), seconds)


def mutants(seed: int) -> Iterator[bytes]:
    """Endless mutated files; the same for the same seed."""
    rng = random.Random(seed)
    files = corpus()
    while True:
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            mutate(data, rng, files)
        yield bytes(data)


def mutate(data: bytearray, rng: random.Random, files: list[bytes]) -> None:
    """Change bytes in place. Places near the start, where headers and metadata are, are likelier."""
    if not data:
        return
    place = min(int(rng.expovariate(1 / 200)), len(data) - 1) if rng.random() < 0.6 else rng.randrange(len(data))
    length = rng.choice((1, 2, 4, 16, 64))
    match rng.randrange(8):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + length] = rng.randbytes(length)
        case 2:
            size = rng.choice((1, 2, 4))
            number = rng.choice(BOUNDARIES) % 256**size
            data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
        case 3:
            del data[place : place + length]
        case 4:
            data[place:place] = rng.randbytes(length)
        case 5:
            data[place:place] = data[place : place + 4 * length]
        case 6:
            other = rng.choice(files)
            start = rng.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        case 7:
            del data[max(place, 12) :]


def check(data: bytes) -> str | None:
    """Decode a file; see the top of this module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own
        try:
            image = decode_image(data, keep_grey=True)
        except ImageFileError as error:
            return None if not _pillow_takes(data) else f"Pillow decodes it, and it is refused: {error}"
        if image.ndim != 3 or image.shape[0] not in (1, 3) or not 0 <= image.min() <= image.max() <= 1:
            return f"decoded to {tuple(image.shape)}, {image.min()} to {image.max()}"
        if image[0].numel() > MAX_COMPARED_PIXELS:
            return None
        try:
            expected = _by_pillow(data)
        except Exception:
            return None  # what Pillow refuses for its metadata only
        found = image.numpy()
        if found.shape != expected.shape or np.abs(found - expected).max() > 1e-6:
            return f"decoded to other pixels than Pillow's: {found.shape}, {expected.shape}"
    return None


def _by_pillow(data: bytes) -> np.ndarray:
    """``(1 or 3, H, W)`` in [0, 1], written apart from the code under test."""
    image: Image.Image = Image.open(io.BytesIO(data))
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # faulty EXIF data
        image.load()
        turns = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))
        orientation = image.getexif().get(0x0112)
        image = image.transpose(Image.Transpose(turns[orientation])) if orientation in turns else image
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.float64)[None] / 65535
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image.convert("RGBA"))
        image = white
    pixels = np.asarray(image.convert("L" if grey else "RGB")) / 255
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _pillow_takes(data: bytes) -> bool:
    """Whether Pillow decodes a still picture of a format that is read, and nothing is known to be wrong with it."""
    kind = format_of(data[:START])
    if kind not in READ or kind == "HEIC":
        return False
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            refused_for_a_reason = (
                image.size[0] * image.size[1] > min(MAX_PIXELS, 4 * MAX_COMPARED_PIXELS)
                or getattr(image, "is_animated", False)
                or image.mode == "F"
                or (image.format == "TIFF" and image.tag_v2.get(254, 0) & 1)  # a preview
            )
            if refused_for_a_reason:
                return False
            image.load()
            if image.mode.startswith("I") and not 0 <= np.asarray(image).min() <= np.asarray(image).max() <= 65535:
                return False
    except Exception:
        return False
    return kind != "PNG" or _checksums_are_right(data)


def _checksums_are_right(png: bytes) -> bool:
    with Image.open(io.BytesIO(png)) as image:
        try:
            image.verify()
        except Exception:
            return False
    return True


def corpus() -> list[bytes]:
    """Small pictures in every format and mode, with and without metadata."""
    random_pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 4), dtype=np.uint8)
    colour, alpha = Image.fromarray(random_pixels[..., :3]), Image.fromarray(random_pixels)
    grey, palette = colour.convert("L"), colour.quantize(16)
    deep = Image.fromarray(random_pixels[..., :2].copy().view(np.uint16)[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    meta = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a comment", zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="8"/>')
    xmp = {"xmp": b'<rdf:Description tiff:Orientation="8"/>'}
    files = [
        *(_encoded(image, "PNG") for image in (colour, alpha, grey, palette, deep, grey.convert("1"))),
        *(_encoded(colour, "PNG", pnginfo=text, **meta), _encoded(palette, "PNG", transparency=3)),
        *(_encoded(colour, "PNG", save_all=True, append_images=[colour.rotate(180)]),),
        *(_encoded(image, "JPEG", quality=80) for image in (colour, grey, colour.convert("CMYK"))),
        *(_encoded(colour, "JPEG", progressive=True, dpi=(72, 72), comment=b"a comment", **xmp, **meta),),
        *(_encoded(colour, "MPO", save_all=True, append_images=[grey.resize((4, 4))]),),
        *(_encoded(alpha, "WEBP", lossless=True), _encoded(colour, "WEBP", **xmp, **meta)),
        *(_encoded(image, "TIFF") for image in (colour, alpha, grey, palette, deep, colour.convert("CMYK"))),
        *(_encoded(colour, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        *(_encoded(grey.convert("1"), "TIFF", compression="group4"), _encoded(colour, "TIFF", **meta)),
        *(_encoded(colour, "TIFF", save_all=True, append_images=[grey]),),
        *(_encoded(image, "GIF") for image in (colour, grey, palette)),
        *(_encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)], transparency=2),),
        *(_encoded(image, "BMP") for image in (colour, alpha, grey, palette, grey.convert("1"))),
        *(_encoded(image, "PPM") for image in (colour, grey, deep, grey.convert("1"))),
        *(b"P3 2 1 255\n0 1 2 3 4 5\n", b"P2\n# a comment\n2 1\n7\n0 7\n", b"P6 2 1 65535\n" + bytes(range(12))),
        *(_encoded(image, "JPEG2000") for image in (colour, alpha, grey)),
        *(_encoded(image, "QOI") for image in (colour, alpha)),
        struct.pack("<4sHHI", b"\0\0\1\0", 0, 0, 0) + bytes(40),  # an icon, which is not read
    ]
    if features.check("avif"):
        files += [_encoded(alpha, "AVIF"), _encoded(colour, "AVIF", **xmp, **meta)]
    return files


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
