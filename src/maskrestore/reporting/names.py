"""Names that strangers wrote, of files and classes, as text for people."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from maskrestore.errors import ConfigError

__all__ = ["class_label", "printable", "read_class_names"]

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def printable(text: str) -> str:
    """Return the text with control characters, undecodable bytes and text-direction marks as escape sequences."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def class_label(label: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class, or "class 7", and that it has no name where others have one."""
    if class_names is None:
        return f"class {label}"
    name = class_names[label] if 0 <= label < len(class_names) else ""
    return printable(name) if name else f"class {label} (no name)"


def read_class_names(path: Path) -> list[str]:
    """Read the names of the classes from a text file, one on each line, in the order of the labels.

    The file is UTF-8 or UTF-16, with or without a byte-order mark, and lines end as on any system. White space around a
    name and blank lines at the end are dropped. A blank line elsewhere is a class without a name.

    Raises ConfigError if it cannot be read as such, or holds no name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read class names from {path}: {error.strerror or error}") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot read class names from {path}: it is neither UTF-8 nor UTF-16 text ({error}); save it as UTF-8"
        ) from error
    # Only these end a line: str.splitlines would also divide a name at a form feed or at U+2028.
    names = [name.strip() for name in re.split("\r\n|\n|\r", text)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ConfigError(f"{path} holds no class names; expected one on each line")
    if "\0" in text:
        raise ConfigError(f"cannot read class names from {path}: it holds zero bytes; expected text, a name a line")
    return names


def _encoding(data: bytes) -> str:
    """By the byte-order mark; without one, by where the zero bytes of the first characters are."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    even, odd = data[0:200:2], data[1:200:2]
    if len(data) % 2 == 0 and odd.count(0) != even.count(0) and max(odd.count(0), even.count(0)) > len(even) // 3:
        return "utf-16-le" if odd.count(0) > even.count(0) else "utf-16-be"
    return "utf-8"
