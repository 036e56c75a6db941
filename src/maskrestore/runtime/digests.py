"""The one place that hashes: names for settings, files, weights and pictures, and the keyed digest behind the masks.

A digest is part of the name of a record or of a cached file, so none of these functions may change what it returns.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Part", "digest", "digest_of_file", "digest_of_json", "keyed_digest", "raw_digest", "sha256_of_json"]

Part = bytes | bytearray | memoryview
"""Anything with bytes to hash; a NumPy array's ``data`` is hashed without a copy."""


def digest(parts: Iterable[Part]) -> str:
    """Sixteen hex digits that identify a sequence of bytes, however it is cut into parts."""
    return raw_digest(parts, size=8).hex()


def digest_of_json(value: Any, *more: Part) -> str:
    """Sixteen hex digits of a value of plain JSON types, whatever the order of its keys, and of bytes after it."""
    return digest([json.dumps(value, sort_keys=True).encode(), *more])


def digest_of_file(path: Path) -> str:
    """Sixteen hex digits of the content of a file, read in pieces. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, functools.partial(hashlib.blake2b, digest_size=8)).hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a value of plain JSON types, whatever the order of its keys: 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def raw_digest(parts: Iterable[Part], *, size: int = 64, person: bytes = b"") -> bytes:
    """BLAKE2b of a sequence of bytes. size: of the digest, in bytes. person: keeps uses apart, up to 16 bytes."""
    state = hashlib.blake2b(digest_size=size, person=person)
    for part in parts:
        state.update(part)
    return state.digest()


def keyed_digest(secret: Part, parts: Iterable[Part], *, size: int, person: bytes) -> bytes:
    """BLAKE2b that only the holder of the secret can compute.

    secret: of any length; it is hashed first, since the key of a BLAKE2b is at most 64 bytes long.
    """
    state = hashlib.blake2b(key=raw_digest([secret]), digest_size=size, person=person)
    for part in parts:
        state.update(part)
    return state.digest()
