import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from maskrestore.errors import ImageFileError
from maskrestore.imaging.codec import decode_image, find_images, read_image, walk_images, write_png

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


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


@pytest.mark.parametrize("data", [b"", b"hello", bytes(5000), b"%PDF-1.7\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageFileError, match="upload: not an image in PNG"):
        decode_image(data, name="upload")


@pytest.mark.parametrize("kind", ["ICO", "PDF", "ICNS", "TGA", "PCX"])
def test_formats_outside_the_list_are_refused(kind: str) -> None:
    with pytest.raises(ImageFileError, match="not an image in PNG, JPEG, WEBP, BMP, TIFF, GIF, PPM format"):
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
def test_a_text_chunk_that_expands_to_gigabytes_is_refused_or_skipped_quickly() -> None:
    bomb = zlib.compress(b"\0" * 80_000_000, 9)
    data = encoded(picture(), "PNG")
    body = b"zTXt" + b"k\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(ImageFileError, match="unsafe"):
        decode_image(data[:33] + chunk + data[33:])


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
    with pytest.raises(ImageFileError, match=r"gone\.png: expected an image file, found no file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageFileError, match="found a folder"):
        read_image(tmp_path)


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/y.txt", "c.webp", ".hidden/x.png", "._c.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/z.jpeg", "b.PNG", "c.webp"]
    assert find_images(str(tmp_path / "notes.md")) == [tmp_path / "notes.md"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match=r"empty: no images in this folder; looked for \.bmp"):
        find_images(tmp_path / "empty")
    with pytest.raises(ImageFileError, match="nowhere: expected an image or a folder"):
        find_images(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def refusing(folder: str | Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError("locked")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.warns(UserWarning, match="locked is left out"):
        assert list(walk_images(tmp_path)) == [tmp_path / "a.png"]


def test_a_walk_leaves_out_one_folder_and_follows_no_links(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/out/y.png", "b/out/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").symlink_to(tmp_path / "b")
    (tmp_path / "link.png").symlink_to(tmp_path / "a/x.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")  # found, and refused when it is read
    found = {path.relative_to(tmp_path).as_posix() for path in walk_images(tmp_path, leave_out=tmp_path / "a/out")}
    assert found == {"a/x.png", "b/out/z.png", "link.png", "loop.png"}
