"""Random numbers for each image, from the operator's key and the content of the image.

Each image has its own counter-based stream. So a result does not depend on the batch or the worker, the operator can
replay any decision, and an attacker who does not know the key cannot predict the masks.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.runtime.digests import keyed_digest, raw_digest

__all__ = ["Key", "Stream", "gaussian_noise", "key_bytes", "key_fingerprint", "operator_key"]

Key = int | str | bytes


def key_bytes(key: Key) -> bytes:
    """The bytes of an operator's key. A text is the same key as its UTF-8 bytes; a number differs from both.

    Raises ConfigError for an empty key and for other types.
    """
    match key:
        case bytes() | str():
            secret = key.encode() if isinstance(key, str) else key
            if not secret:
                raise ConfigError("the key is empty; use 16 characters or more")
            return b"b" + secret
        case int():
            return b"i" + str(int(key)).encode()
        case _:
            raise ConfigError(f"expected a text, bytes or a whole number as key, got a {type(key).__name__}")


def key_fingerprint(key: Key) -> str:
    """Sixteen hex digits that identify a key in records without revealing it."""
    return raw_digest([key_bytes(key)], size=8, person=b"fingerprint").hex()


def operator_key(key_file: Path | None) -> bytes | None:
    """The operator's key: from the file, else from the variable MASKRESTORE_KEY; ``None`` if there is neither.

    White space around the key is removed. Raises ConfigError if the key is empty or the file cannot be read.
    """
    variable = os.environ.get("MASKRESTORE_KEY")
    if key_file is not None:
        try:
            secret = key_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the key from {key_file}: {error.strerror}") from error
    elif variable is not None:
        secret = variable.strip().encode()
    else:
        return None
    if not secret:
        raise ConfigError(f"the key in {key_file or 'MASKRESTORE_KEY'} is empty; use 16 characters or more")
    return secret


class Stream:
    """Uniform numbers for one image. The same ``path`` always gives the same numbers."""

    def __init__(self, key: Key, image: Tensor) -> None:
        """image: ``(C, H, W)`` float32; its shape and pixels become part of the key."""
        pixels = image.detach().cpu().contiguous().numpy().reshape(-1)
        # Not tobytes, which would copy the pixels while it holds the interpreter's lock.
        parts = (repr(tuple(image.shape)).encode(), pixels.view(np.uint8).data)
        philox_key = keyed_digest(key_bytes(key), parts, size=16, person=b"masks")
        self._philox_key = int.from_bytes(philox_key, "little")

    @property
    def content(self) -> int:
        """A number that stands for the key and all pixels of the image."""
        return self._philox_key

    def uniform(self, *path: int, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), float32. ``path``: up to three counters that identify this draw.

        A draw with a larger first dimension starts with the same numbers.
        """
        counter = (*path, *(0,) * (3 - len(path)))
        # The generator itself counts in the low 64 bits while it draws.
        bits = np.random.Philox(key=self._philox_key, counter=[0, *counter])
        return torch.from_numpy(np.random.Generator(bits).random(shape, dtype=np.float32))


def gaussian_noise(stream: Stream, *path: int, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal float32 numbers of ``shape``. A ``path`` (see :class:`Stream`) has fixed numbers."""
    uniform = stream.uniform(*path, shape=shape).double() + 2**-25  # in (0, 1), so that the quantile is finite
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.float()
