"""Names of classes, from files as people have them."""

from pathlib import Path

import pytest

from maskrestore.errors import ConfigError
from maskrestore.reporting import read_class_names
from maskrestore.reporting.names import class_label

NAMES = ["noir", "vert foncé", "青"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("tail", ["", "\n", "\r\n \r\n\n"])
def test_class_names_are_read_as_editors_write_them(tmp_path: Path, encoding: str, ending: str, tail: str) -> None:
    text = ending.join(NAMES) + tail
    (tmp_path / "names.txt").write_bytes(text.encode(encoding))
    assert read_class_names(tmp_path / "names.txt") == NAMES


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_with_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    encoding = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    (tmp_path / "names.txt").write_bytes(mark + "\r\n".join(NAMES).encode(encoding))
    assert read_class_names(tmp_path / "names.txt") == NAMES


def test_only_ends_of_lines_divide_names(tmp_path: Path) -> None:
    names = ["form\x0cfeed", "line\u2028separator", "next\x85line", "", "fifth"]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no class names; expected one on each line"),
        (b"\r\n \n", "holds no class names"),
        ("né".encode("latin-1"), "neither UTF-8 nor UTF-16 text .*; save it as UTF-8"),
        (b"abc\0def and so on\n", "it holds zero bytes"),
        (b"\xff\xfea", "neither UTF-8 nor UTF-16"),
        (None, "cannot read class names from .*No such file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_class_names(tmp_path / "names.txt")


def test_a_label_without_a_name_says_so() -> None:
    assert class_label(1, None) == "class 1"
    assert class_label(1, ["a", "b"]) == "b"
    assert [class_label(label, ["a", ""]) for label in (-1, 1, 7)] == [
        *("class -1 (no name)", "class 1 (no name)", "class 7 (no name)")
    ]
