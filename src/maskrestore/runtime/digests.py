"""All hashing: digests that identify settings, files, weights and images, and the keyed digest of random streams.

Digests are parts of the names of records and cached files, so no function here may change what it returns.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

__all__ = [
    "Part",
    "digest",
    "digest_of_file",
    "digest_of_json",
    "digest_of_key",
    "digest_of_stream",
    "keyed_digest",
    "raw_digest",
    "sha256_of_json",
]

Part = bytes | bytearray | memoryview
"""Bytes to hash. The ``data`` of a contiguous NumPy array is hashed without a copy."""


def digest(parts: Iterable[Part]) -> str:
    """Sixteen hex digits that identify a sequence of bytes; how it is split into parts does not matter."""
    return raw_digest(parts, size=8).hex()


def digest_of_json(value: Any, more: Iterable[Part] = ()) -> str:
    """Sixteen hex digits of a value of plain JSON types, followed by bytes; the order of keys does not matter.

    The bytes may come from a generator, so that they need not be in memory together.
    """
    return digest(itertools.chain([json.dumps(value, sort_keys=True).encode()], more))


def digest_of_file(path: Path) -> str:
    """Sixteen hex digits of the content of a file, which is read in pieces. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return digest_of_stream(stream)


def digest_of_stream(stream: BinaryIO) -> str:
    """The same of a file that is open, from its beginning."""
    stream.seek(0)
    return hashlib.file_digest(
        cast(io.BufferedReader, stream), functools.partial(hashlib.blake2b, digest_size=8)
    ).hexdigest()


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a value of plain JSON types, 64 hex digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def raw_digest(parts: Iterable[Part], *, size: int = 64, person: bytes = b"") -> bytes:
    """BLAKE2b digest of a sequence of bytes.

    size: bytes of the digest, 1 to 64. person: at most 16 bytes that keep the digests of different uses apart.
    """
    state = hashlib.blake2b(digest_size=size, person=person)
    for part in parts:
        state.update(part)
    return state.digest()


def keyed_digest(secret: Part, parts: Iterable[Part], *, size: int, person: bytes) -> bytes:
    """Keyed BLAKE2b digest: only the holder of the secret can compute it.

    secret: of any length; it is hashed first, since a BLAKE2b key has at most 64 bytes. size, person: as for
    :func:`raw_digest`.
    """
    state = hashlib.blake2b(key=raw_digest([secret]), digest_size=size, person=person)
    for part in parts:
        state.update(part)
    return state.digest()


def digest_of_key(key: str) -> str:
    """Sixty-four hex digits of a random key for access, to be kept in its place.

    For keys of 128 random bits or more: it is fast, so a password that people chose could be found by trial.
    """
    return raw_digest([key.encode()], size=32, person=b"access-key").hex()
