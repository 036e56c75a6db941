import inspect
import io
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from maskrestore.errors import ImageFileError
from maskrestore.imaging.formats import SUFFIXES, format_of
from maskrestore.imaging.walking import find_images, in_words, walk_images


def walked(path: Path, **options) -> tuple[list[str], dict[str, str]]:
    """Names of the pictures, sorted, and the reason for each name that is left out."""
    found, left_out = [], {}
    for file, reason in walk_images(path, **options):
        name = file.relative_to(path).as_posix()
        if reason is None:
            found.append(name)
        else:
            assert name not in left_out
            left_out[name] = reason
    assert len(set(found)) == len(found)
    return sorted(found), left_out


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_pictures_are_found_and_all_else_is_left_out_with_a_reason(tmp_path: Path) -> None:
    filled(tmp_path, "b.PNG", "a/z.jpeg", "a/y.txt", "c.webp", ".hidden/x.png", ".hidden/y.png", "._c.png", "notes.md")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")  # promises a picture: it is found, and refused when it is read
    found, left_out = walked(tmp_path)
    assert found == ["a/z.jpeg", "b.PNG", "c.webp", "gone.jpg"]
    assert left_out == {
        ".hidden": "hidden folder",
        "._c.png": "hidden file",
        "a/y.txt": "not a picture",
        "notes.md": "not a picture",
        "pipe.png": "pipe, socket or device",
        "gone": "broken link",
    }
    with pytest.warns(UserWarning, match=r"left out of .*: 2 not a picture, 1 broken link, 1 hidden file, 1 hidden"):
        assert find_images(str(tmp_path)) == sorted(tmp_path / name for name in found)
    assert find_images(tmp_path / "notes.md") == [tmp_path / "notes.md"]


def test_nothing_to_find_is_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match="empty: no images in this folder; left out: nothing"):
        find_images(tmp_path / "empty")
    filled(tmp_path, "full/a.txt", "full/b.txt", "full/.c.png")
    with pytest.raises(ImageFileError, match="no images in this folder; left out: 2 not a picture, 1 hidden file"):
        find_images(tmp_path / "full")
    with pytest.raises(ImageFileError, match="nowhere: expected an image or a folder"):
        find_images(tmp_path / "nowhere")
    assert in_words(Counter({"x": 1, "y": 3})) == "3 y, 1 x"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("suffix", ["", ".dat", ".jpe", ".txt"])
def test_pictures_are_told_by_their_content(kind: str, suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / f"download{suffix}", kind)
    assert walked(tmp_path) == ([f"download{suffix}"], {})


def test_formats_that_are_not_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in {"a.ico": "ICO", "b.eps": "EPS", "c.pdf": "PDF", "d.dds": "DDS", "e.tga": "TGA"}.items():
        Image.new("RGB", (32, 32)).save(tmp_path / name, kind)
    (tmp_path / "f.svg").write_text('<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "g.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    (tmp_path / "h.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "i.heic").write_bytes(b"cut off")  # promises a picture
    (tmp_path / "j.CR3").write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom")
    (tmp_path / "k.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, left_out = walked(tmp_path)
    assert found == ["i.heic"]
    assert {name: reason.split()[0] for name, reason in left_out.items()} == {
        **{"a.ico": "icon", "b.eps": "PostScript", "c.pdf": "PDF", "d.dds": "DDS", "e.tga": "not", "f.svg": "SVG"},
        **{"g.jxl": "JPEG", "h.HEIC": "HEIC", "j.CR3": "raw", "k.mp4": "not"},
    }
    assert (
        left_out["h.HEIC"]
        == "HEIC picture (pillow_heif is needed for this; install it with: pip install 'maskrestore[heic]')"
    )
    assert left_out["f.svg"] == "SVG file, which is not read (convert it to PNG)"


def test_text_that_begins_like_a_picture_is_none() -> None:
    for text in (
        b"BMW builds cars",
        b"P3 is the third part",
        b"<html><svg></svg></html>",
        b"GIF8 is short",
        b"II",
        b"",
    ):
        assert format_of(text) is None, text
    assert format_of(b"P5\n# a comment\n4 4\n255\n" + bytes(16)) == "PPM"
    assert format_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"


def test_every_suffix_of_the_formats_that_are_read_promises_a_picture() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in ("PNG", "JPEG", "WEBP", "QOI")}
    assert known <= SUFFIXES


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "locked/b.png", "a.png")
    scan = os.scandir

    def refusing(folder: str | Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError("locked")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert walked(tmp_path) == (["a.png"], {"locked": "folder that cannot be read"})


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "a.png", "locked")

    def refusing(path: str, *options: object, **more: object) -> io.IOBase:
        raise PermissionError(path)

    monkeypatch.setattr("builtins.open", refusing)
    assert walked(tmp_path) == (["a.png"], {"locked": "file that cannot be read"})


def test_results_are_passed_over_without_a_word(tmp_path: Path) -> None:
    filled(tmp_path, "a/x.png", "a/out/y.png", "a/out/report.html", "a/z.png", "b/out/z.png", "b/report.html")
    (tmp_path / "link").symlink_to(tmp_path / "a/out")
    (tmp_path / "link.png").symlink_to(tmp_path / "a/x.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    found, left_out = walked(tmp_path, leave_out=[tmp_path / "a/out"])
    assert found == ["a/x.png", "a/z.png", "b/out/z.png", "link.png", "loop.png"]
    assert left_out == {"b/report.html": "not a picture"}


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    source = filled(tmp_path / "set", "cat/1.png", "cat/old/2.png", ".cache/9.png")
    filled(tmp_path, "elsewhere/dog/3.png", "elsewhere/dog/deep/4.png", "around.png")
    (source / "dog").symlink_to("../elsewhere/dog")
    (source / "hound").symlink_to("../elsewhere/dog")  # the same again
    (source / "old").symlink_to("cat/old")  # read anyway
    (source / "cat/loop").symlink_to("..")
    (source / "self").symlink_to(".")
    (source / "up").symlink_to("..")  # everything around the source
    (source / "root").symlink_to("/")
    (source / "cache").symlink_to(".cache")
    (tmp_path / "elsewhere/dog/back").symlink_to(source)
    (tmp_path / "elsewhere/dog/puppy").symlink_to("deep")
    found, left_out = walked(source)
    assert found == ["cache/9.png", "cat/1.png", "cat/old/2.png", "dog/3.png", "dog/deep/4.png"]
    around, again = "link to a folder around it", "folder that is read anyway, under another name"
    assert left_out == {
        ".cache": "hidden folder",
        **dict.fromkeys(("cat/loop", "self", "up", "root"), around),
        **dict.fromkeys(("hound", "old", "dog/back", "dog/puppy"), again),
    }
    # A source that is a link itself.
    (tmp_path / "to-set").symlink_to("set")
    assert walked(tmp_path / "to-set")[0] == found


def test_folders_may_be_nested_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    filled(tmp_path, "/".join(["d"] * 200) + "/x.png")
    depth = len(inspect.stack())
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 60)
    try:
        found = [path.name for path, _ in walk_images(tmp_path)]
    finally:
        sys.setrecursionlimit(before)
    assert found == ["x.png"]
