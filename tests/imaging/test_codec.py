import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, features

from maskrestore.errors import ImageFileError
from maskrestore.imaging.codec import decode_image, read_image, read_image_file, write_png

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "TIFF",
    "GIF",
    "PPM",
    "JPEG2000",
    *(["AVIF"] if features.check("avif") else []),
)


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encoded(picture(), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = decode_image(data)
    assert image.shape == (3, 24, 32)
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(expected.copy()).permute(2, 0, 1))


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's own
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_truncated_files_are_refused(kind: str, part: float, tmp_path: Path) -> None:
    data = encoded(picture(), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageFileError, match=r"cut\."):
        read_image(path)


def test_a_png_with_one_wrong_bit_is_refused() -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageFileError, match="photo: truncated, corrupt"):
        decode_image(bytes(data), name="photo")


@pytest.mark.parametrize("kind", FORMATS)
def test_noise_behind_a_good_start_raises_nothing_else(kind: str) -> None:
    data, rng = encoded(picture(), kind), np.random.default_rng(1)
    for _ in range(20):
        start = int(rng.integers(4, len(data) - 64))
        broken = data[:start] + rng.bytes(32) + data[start + 32 :]
        try:
            image = decode_image(broken, max_pixels=10_000_000)
        except ImageFileError:
            continue
        assert image.ndim == 3  # formats without checksums show the damage as pixels


@pytest.mark.parametrize("data", [b"hello", bytes(5000), b"BM but no bitmap", b"P5 is no picture"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageFileError, match="upload: not an image in PNG"):
        decode_image(data, name="upload")


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(ImageFileError, match="upload: not an image: the file is empty"):
        decode_image(b"", name="upload")


@pytest.mark.parametrize(
    ("kind", "named"),
    [("ICO", "icon"), ("ICNS", "icon"), ("PDF", "PDF"), ("EPS", "PostScript"), ("DDS", "DDS")],
)
def test_formats_that_are_not_read_are_named(kind: str, named: str) -> None:
    with pytest.raises(ImageFileError, match=rf"photo: {named} file, which is not read \(convert it to PNG\)"):
        decode_image(encoded(picture(32, 32), kind), name="photo")


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI"])
def test_formats_without_a_signature_are_no_images(kind: str) -> None:
    with pytest.raises(ImageFileError, match="not an image in PNG, JPEG, WEBP"):
        decode_image(encoded(picture(32, 32), kind))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_animations_and_pages_are_refused(kind: str, options: dict[str, object]) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(ImageFileError, match=f"animated or multi-page {kind}, expected one still image"):
        decode_image(data)


def test_the_preview_behind_a_photograph_is_ignored() -> None:
    preview = Image.new("RGB", (4, 4))
    data = encoded(Image.fromarray(picture()), "MPO", save_all=True, append_images=[preview])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decode_image(data).shape == (3, 24, 32)


def test_huge_images_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    bmp = encoded(picture(), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageFileError, match="9000 x 8000 = 72000000 pixels, expected at most 64000000"):
        decode_image(png_header(9000, 8000))
    with pytest.raises(ImageFileError, match="32 x 24 = 768 pixels, expected at most 767"):
        decode_image(bmp, max_pixels=767)
    with pytest.raises(ImageFileError, match="bomb: "):
        decode_image(png_header(2**31 - 1, 2**31 - 1), name="bomb")
    frame = b"," + struct.pack("<HHHHB", 0, 0, 9000, 8000, 0)  # far larger than the screen of one pixel
    with pytest.raises(ImageFileError, match="9000 x 8000"):
        decode_image(b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame + b"\x02\x02D\x01\x00;")


def test_pixels_that_the_header_promised_but_the_file_lacks() -> None:
    with pytest.raises(ImageFileError, match="truncated"):
        decode_image(png_header(100, 100))


@pytest.mark.filterwarnings("error")
def test_a_text_chunk_that_expands_to_gigabytes_is_skipped_quickly() -> None:
    bomb = zlib.compress(b"\0" * 80_000_000, 9)
    data = encoded(picture(), "PNG")
    body = b"zTXt" + b"k\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert torch.equal(decode_image(data[:33] + chunk + data[33:]), decode_image(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = torch.from_numpy(picture()).permute(2, 0, 1)
    stored = {  # what a camera held in that way stores
        1: upright, 2: upright.flip(2), 3: upright.flip(1, 2), 4: upright.flip(1), 5: upright.mT,
        6: upright.mT.flip(1), 7: upright.mT.flip(1, 2), 8: upright.mT.flip(2),
    }[orientation]  # fmt: skip
    data = encoded(stored.permute(1, 2, 0).contiguous().numpy(), "PNG", exif=exif)
    assert torch.equal((decode_image(data) * 255).round().byte(), upright)


def test_palettes_transparency_and_cmyk() -> None:
    palette = Image.fromarray(picture()).quantize(16)
    assert torch.equal(
        decode_image(encoded(palette, "PNG")) * 255,
        torch.from_numpy(np.asarray(palette.convert("RGB")).copy()).permute(2, 0, 1).float(),
    )
    index = palette.getpixel((0, 0))
    seen = decode_image(encoded(palette, "PNG", transparency=index))
    assert seen[:, 0, 0].tolist() == [1, 1, 1]
    keyed = Image.new("RGB", (2, 1), (9, 9, 9))
    keyed.putpixel((1, 0), (200, 0, 0))
    assert decode_image(encoded(keyed, "PNG", transparency=(9, 9, 9)))[:, 0, 0].tolist() == [1, 1, 1]
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode_image(encoded(red, "JPEG"))[:, 4, 4] == pytest.approx([1, 0, 0], abs=0.02)
    assert decode_image(encoded(red, "TIFF"))[:, 4, 4].tolist() == [1, 0, 0]


def test_grey_is_kept_if_asked() -> None:
    grey = Image.fromarray(picture()[..., 0])
    data = encoded(grey, "PNG")
    one, three = decode_image(data, keep_grey=True), decode_image(data)
    assert one.shape == (1, 24, 32)
    assert torch.equal(three, one.repeat(3, 1, 1))
    assert decode_image(encoded(picture(), "PNG"), keep_grey=True).shape == (3, 24, 32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_files_keep_their_precision(kind: str) -> None:
    values = np.arange(0, 65536, 97, dtype=np.uint16)[:600].reshape(20, 30)
    # The lowest version of Pillow that is supported does not write this kind of PPM.
    ppm = b"P5 30 20 65535\n" + values.astype(">u2").tobytes()
    image = decode_image(ppm if kind == "PPM" else encoded(Image.fromarray(values), kind), keep_grey=True)
    torch.testing.assert_close(image[0] * 65535, torch.from_numpy(values.astype(np.float32)), rtol=0, atol=0.01)


def test_float_tiff_is_refused() -> None:
    with pytest.raises(ImageFileError, match="Pillow mode F"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))


def test_written_pixels_come_back_bit_for_bit(tmp_path: Path) -> None:
    every_level = torch.arange(256).reshape(1, 16, 16).expand(3, -1, -1) / 255
    write_png(tmp_path / "a.png", every_level)
    assert torch.equal(read_image(tmp_path / "a.png"), every_level)
    write_png(tmp_path / "b.png", picture())
    assert torch.equal(read_image(tmp_path / "b.png"), torch.from_numpy(picture()).permute(2, 0, 1) / 255)
    write_png(tmp_path / "c.png", every_level[:1])
    assert Image.open(tmp_path / "c.png").mode == "L"
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["a.png", "b.png", "c.png"]


def test_writing_rounds_to_the_nearest_level(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.tensor([[0.49 / 255, 0.51 / 255, 99.4 / 255, 99.6 / 255, 1.0]]))
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 1, 99, 100, 255]]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_png(path, torch.zeros(3, 4, 4))
    before = path.read_bytes()

    def full_disk(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(ImageFileError, match=r"a\.png: cannot be written: .*No space left"):
        write_png(path, torch.ones(3, 4, 4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 4, 4), torch.full((3, 4, 4), 2.0)])
def test_what_is_not_one_valid_image_is_not_written(image: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"a\.png: cannot be written: expected"):
        write_png(tmp_path / "a.png", image)
    with pytest.raises(ImageFileError, match=r"no/b\.png"):
        write_png(tmp_path / "no" / "b.png", torch.zeros(3, 4, 4))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="null: expected an image file, found a pipe, socket or device"):
        read_image("/dev/null")
    with pytest.raises(ImageFileError, match=r"gone\.png: expected an image file, found no file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageFileError, match="found a folder"):
        read_image(tmp_path)


def chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif_block(*entries: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    """A TIFF directory; each entry is tag, type, count, value or offset."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + tail


TURNED = (0x0112, 3, 1, 6)
FAULTY_EXIF = {
    "rational with denominator 0": (exif_block(TURNED, (0x011A, 10, 1, 38), tail=struct.pack("<ii", -1, 0)), True),
    "value behind the end": (exif_block(TURNED, (0x010F, 2, 500, 9000)), True),
    "unknown type": (exif_block(TURNED, (0x9000, 77, 1, 1)), True),
    "cut off behind the orientation": (exif_block(TURNED, (0x0110, 2, 4, 0))[:24], True),
    "more entries than there are": (b"II*\0" + struct.pack("<IH", 8, 900) + struct.pack("<HHII", *TURNED), True),
    "loop of directories": (exif_block(TURNED)[:-4] + struct.pack("<I", 8), True),
    "sub-directory behind the end": (exif_block(TURNED, (0x8769, 4, 1, 70000)), True),
    "orientation of 9": (exif_block((0x0112, 3, 1, 9)), False),
    "orientation as a list": (exif_block((0x0112, 3, 2, 6 + (6 << 16))), True),
    "orientation as a text": (exif_block((0x0112, 2, 2, 54)), False),
    "no TIFF header": (bytes.fromhex("0008000201120003"), False),
    "one byte": (b"I", False),
    "nothing": (b"", False),
}


@pytest.mark.filterwarnings("ignore:.*EXIF", "ignore:Truncated", "ignore:Metadata")  # Pillow's own
@pytest.mark.parametrize("fault", FAULTY_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_faulty_exif_data_do_not_matter(kind: str, fault: str) -> None:
    block, turned = FAULTY_EXIF[fault]
    data = encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    if kind == "JPEG":
        faulty = data[:2] + segment(0xE1, b"Exif\0\0" + block) + data[2:]
    elif kind == "PNG":
        faulty = data[:33] + chunk(b"eXIf", block) + data[33:]
    else:
        faulty = encoded(picture(), kind, lossless=True, exif=b"Exif\0\0" + block)
    image = decode_image(data)
    assert torch.equal(decode_image(faulty), image.mT.flip(2) if turned else image)


@pytest.mark.filterwarnings("ignore")  # Pillow's own
def test_a_tiff_with_faulty_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    sound = encoded(picture(), "TIFF", exif=exif, dpi=(72, 72))
    image = torch.from_numpy(picture()).permute(2, 0, 1) / 255
    assert torch.equal(decode_image(sound), image.mT.flip(2))
    tags = Image.open(io.BytesIO(sound)).tag_v2
    (count,) = struct.unpack_from("<H", sound, tags._offset)
    for place in range(tags._offset + 2, tags._offset + 2 + 12 * count, 12):
        tag, kind, number, value = struct.unpack_from("<HHII", sound, place)
        if tag in (0x011A, 0x010F):  # resolution, maker
            for broken in ((tag, 77, number, value), (tag, kind, 2**30, value), (tag, kind, number, 0)):
                data = bytearray(sound)
                struct.pack_into("<HHII", data, place, *broken)
                try:
                    Image.open(io.BytesIO(data)).load()
                except (OSError, ValueError, TypeError, SyntaxError):
                    assert tuple(map(int, PIL.__version__.split(".")[:2])) < (12, 3)  # refuses such a file as a whole
                    continue
                assert torch.equal(decode_image(bytes(data)), image.mT.flip(2)), (tag, broken)


def test_other_faulty_metadata_do_not_matter() -> None:
    png, jpeg = encoded(picture(), "PNG"), encoded(picture(), "JPEG")
    turned = chunk(b"eXIf", exif_block(TURNED))
    for faulty in (
        *(
            chunk(b"iCCP", b"x\0\0not compressed"),
            chunk(b"iCCP", b"x\0\7"),
            chunk(b"pHYs", b"\0\0"),
            chunk(b"tIME", b""),
        ),
        *(chunk(b"tEXt", b"k\0v", sound=False), chunk(b"zTXt", b"k\0\0junk"), chunk(b"iTXt", b"k\0\1\0\0\0junk")),
        *(chunk(b"gAMA", b"\0"), chunk(b"cHRM", b"\0"), chunk(b"sRGB", b""), chunk(b"eXIf", b"II*\0junk", sound=False)),
    ):
        for data in (png[:33] + faulty + png[33:], png[:-12] + faulty + png[-12:]):
            assert torch.equal(decode_image(data), decode_image(png)), faulty
        # What is sound is used.
        assert torch.equal(decode_image(png[:33] + faulty + turned + png[33:]), decode_image(png).mT.flip(2))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for faulty in (
        *(segment(0xE2, b"ICC_PROFILE\0\1\3" + profile), segment(0xE2, b"ICC_PROFILE\0"), segment(0xE2, b"MPF\0II*\0")),
        *(
            segment(0xE0, b"JFIF\0\1\1\1\0\0\0\0"),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmp"),
            segment(0xFE, b"\xff"),
        ),
        *(
            segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"),
            segment(0xE2, b"MPF\0" + exif_block(TURNED)),
        ),
    ):
        assert torch.equal(decode_image(jpeg[:2] + faulty + jpeg[2:]), decode_image(jpeg)), faulty


def test_faulty_metadata_are_noted(tmp_path: Path) -> None:
    png = encoded(picture(), "PNG")
    for name, data in {
        "sound": png,
        "exif": png[:33] + chunk(b"eXIf", b"no TIFF") + png[33:],
        "text": png[:33] + chunk(b"tEXt", b"k\0v", sound=False) + png[33:],
    }.items():
        (tmp_path / name).write_bytes(data)
        notes = read_image_file(tmp_path / name).notes
        assert notes == (() if name == "sound" else ("faulty metadata, which was ignored",))


def test_what_follows_the_pixels_of_a_png_does_not_matter() -> None:
    png = encoded(picture(), "PNG")
    for data in (png[:-12], png[:-5], png[:-1] + b"?", png[:-12] + b"IEND", png + b"more", png[:-8] + b"ABCDEFGH"):
        assert torch.equal(decode_image(data), decode_image(png))
    with pytest.raises(ImageFileError, match="truncated"):
        decode_image(png[:-13])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT", b"tRNS"])
def test_faults_in_what_pixels_depend_on_are_refused(kind: bytes) -> None:
    palette = Image.fromarray(picture()).quantize(16)
    data = bytearray(encoded(palette, "PNG", transparency=3))
    data[data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")] ^= (
        1  # its checksum
    )
    with pytest.raises(ImageFileError, match=f"corrupt or unsafe: wrong checksum in {kind.decode()}"):
        decode_image(bytes(data))


def test_animations_stay_refused_where_metadata_are_faulty() -> None:
    data = encoded(picture(), "PNG", save_all=True, append_images=[Image.fromarray(255 - picture())])
    with pytest.raises(ImageFileError, match="animated or multi-page PNG"):
        decode_image(data[:33] + chunk(b"tEXt", b"k\0v", sound=False) + data[33:])


def test_a_preview_is_not_taken_for_its_picture() -> None:
    data = encoded(picture(), "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageFileError, match="its first image is a preview, as in a camera's raw file"):
        decode_image(data)


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    stream, red = io.BytesIO(), Image.new("RGB", (64, 48), (200, 30, 30))
    heif.from_pillow(red).save(stream, quality=-1)
    image = decode_image(stream.getvalue())
    assert image.shape == (3, 48, 64)
    assert (image[:, 24, 32] * 255).tolist() == pytest.approx([200, 30, 30], abs=3)
    assert "HEIF" not in Image.OPEN  # Pillow itself is left as it was
    with pytest.raises(ImageFileError, match="photo: truncated"):
        decode_image(stream.getvalue()[:200], name="photo")


def test_heic_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImageFileError, match=r"photo: HEIC picture \(pillow_heif is needed .* pip install 'maskrestore\[heic\]'\)"
    ):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), name="photo")


def test_16_bit_grey_is_written_with_its_depth(tmp_path: Path) -> None:
    every_level = torch.arange(65536).reshape(1, 256, 256) / 65535
    for channels in (1, 3):
        write_png(tmp_path / "a.png", every_level.expand(channels, -1, -1), bits=16)
        assert Image.open(tmp_path / "a.png").mode in ("I;16", "I")
        read = read_image_file(tmp_path / "a.png")
        assert torch.equal(read.pixels, every_level.expand(3, -1, -1))
        assert (read.bits, read.notes) == (16, ())
    with pytest.raises(ImageFileError, match="expected a grey image to write with 16 bits"):
        write_png(tmp_path / "a.png", torch.rand(3, 4, 4), bits=16)


def test_16_bit_colour_is_read_with_8_bits_and_says_so(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))  # 4 x 4 pixels of 3 x 2 bytes
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    ppm = b"P6 4 4 65535\n" + bytes(range(96))
    for name, data in {"png": png, "ppm": ppm}.items():
        (tmp_path / name).write_bytes(data)
        read = read_image_file(tmp_path / name)
        assert (read.pixels.shape, read.bits, read.notes) == ((3, 4, 4), 8, ("16 bits a channel, read with 8",)), name


@pytest.mark.parametrize(
    ("kind", "options"), [("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {})]
)
def test_8_bits_are_not_taken_for_16_at_any_width(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    # Among the numbers that Pillow tells its decoders are lengths, some of which hold the digits 16.
    for width in range(8, 60):
        (tmp_path / "x").write_bytes(encoded(picture(24, width), kind, **options))
        assert read_image_file(tmp_path / "x").notes == (), width


def test_16_bits_with_transparency_say_what_was_lost(tmp_path: Path) -> None:
    for colours, kind in ((2, 4), (4, 6)):  # grey or colour, and alpha
        rows = b"".join(b"\0" + b"\xff\xff" * colours * 4 for _ in range(4))
        header = (4).to_bytes(4, "big") * 2 + bytes((16, kind, 0, 0, 0))
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / "x").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
        assert read_image_file(tmp_path / "x").notes == ("16 bits a channel, read with 8",)


def test_a_transparent_level_of_16_bit_grey_is_white() -> None:
    levels = np.full((4, 4), 1000, np.uint16)
    levels[0, 0] = 7
    image = decode_image(encoded(levels, "PNG", transparency=7), keep_grey=True)
    assert image[0, 0, 0] == 1
    assert image[0, 1:].eq(1000 / 65535).all()


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write_png(path, torch.zeros(3, 4, 4))
    assert list(tmp_path.iterdir()) == [path]
    assert read_image(path).shape == (3, 4, 4)
