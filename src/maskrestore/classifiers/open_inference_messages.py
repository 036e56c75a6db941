"""The messages of the Open Inference Protocol: named tensors in JSON, or in raw bytes after a JSON header.

Questions and answers have one form, so both sides of a gateway read and write them here.

Source: the specification of the Open Inference Protocol, version 2, and Triton's "binary tensor data extension".
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BINARY_HEADER", "DTYPES", "MessageError", "MessageTensor", "json_bytes", "read_message", "write_message"]

BINARY_HEADER = "Inference-Header-Content-Length"
"""The header that holds the length of the JSON part."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""The protocol's names of numbers. It has ``BYTES`` for texts and files, too."""

Kind = Literal["inputs", "outputs"]
_NOUNS = {"inputs": "request", "outputs": "reply"}


class MessageError(ValueError):
    """A message that does not keep to the protocol."""


@dataclass(frozen=True, kw_only=True)
class MessageTensor:
    """A tensor of a message. Its values are read when they are asked for."""

    name: str
    datatype: Any
    shape: Any
    kind: Kind = "outputs"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: Any = None
    """Its values in JSON, if they are not in ``raw``."""
    raw: bytes | None = None

    def values(self) -> npt.NDArray[Any]:
        """The values in the declared shape; those of BYTES are ``bytes``, or the texts of the JSON, as objects.

        Raises MessageError for another type, shape or number of values than declared.
        """
        found = f"the {self.kind[:-1]} {self.name!r} is {str(self.datatype)[:40]} of shape {str(self.shape)[:80]}"
        if not isinstance(self.shape, list) or not all(_is_length(axis) for axis in self.shape):
            raise MessageError(f"{found}; expected a list of lengths as its shape")
        if self.datatype == "BYTES":
            texts = _texts(self.raw, found) if self.raw is not None else _flat(self.data)
            if not all(isinstance(text, str | bytes) for text in texts):
                raise MessageError(f"{found}, and holds something else than texts")
            array = np.array([*texts, None], dtype=object)[:-1]
        elif not isinstance(self.datatype, str) or self.datatype not in DTYPES:
            raise MessageError(f"{found}; expected one of {', '.join(DTYPES)} or BYTES")
        elif self.raw is not None:
            dtype = DTYPES[self.datatype]
            if len(self.raw) % dtype.itemsize:
                raise MessageError(f"{found}, in {len(self.raw)} bytes")
            array = np.frombuffer(self.raw, dtype).astype(dtype.newbyteorder("="))
        else:
            array = _numbers(_flat(self.data), DTYPES[self.datatype], found)
        if array.size != math.prod(self.shape):
            raise MessageError(f"{found}, and holds {array.size} values")
        return array.reshape(self.shape)


def read_message(
    content: bytes, header_length: str | None, kind: Kind
) -> tuple[Mapping[str, Any], dict[str, MessageTensor]]:
    """The JSON of a message, and its tensors by name.

    header_length: the header :data:`BINARY_HEADER`, if the message has it. Raises MessageError for another form; of a
    JSON object without the list of tensors, it has no tensors.
    """
    length = len(content)
    if header_length is not None:
        length = int(header_length) if re.fullmatch(r"\d{1,12}", header_length.strip()) else -1
        if not 0 < length <= len(content):
            raise MessageError(
                f"the {_NOUNS[kind]} has {len(content)} bytes, and its header {BINARY_HEADER} is {header_length[:40]!r}"
            )
    message = _object(content[:length], kind)
    entries = message.get(kind, [])
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
        raise MessageError(f"expected a {_NOUNS[kind]} with a list of {kind}, got {_shown(message)}")
    tensors: dict[str, MessageTensor] = {}
    place = length
    for one in entries:
        name, parameters = str(one.get("name"))[:200], one.get("parameters")
        parameters = parameters if isinstance(parameters, Mapping) else {}
        size = _binary_size(parameters, name, kind)
        if name in tensors:
            raise MessageError(f"there are two {kind} of the name {name!r}")
        tensors[name] = MessageTensor(
            name=name, datatype=one.get("datatype"), shape=one.get("shape"), kind=kind, parameters=parameters,
            data=one.get("data"), raw=None if size is None else content[place : place + size],
        )  # fmt: skip
        place += size or 0
    if place > len(content):
        raise MessageError(f"the {_NOUNS[kind]} is cut off: it should have {place} bytes, and has {len(content)}")
    if kind == "inputs" and header_length is not None and place < len(content):
        raise MessageError(f"the request has {len(content)} bytes, and its tensors end after {place}")
    return message, tensors


def write_message(
    fields: Mapping[str, Any], kind: Kind, tensors: Sequence[tuple[str, str, npt.NDArray[Any], bool]]
) -> tuple[bytes, dict[str, str]]:
    """The body of a message and its headers.

    fields: what else its JSON holds. tensors: name, datatype, values, and whether they are sent in bytes.
    """
    entries, parts = [], []
    for name, datatype, values, binary in tensors:
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": datatype}
        if binary:
            raw = _bytes(values, datatype)
            parts.append(raw)
            entries.append(entry | {"parameters": {"binary_data_size": len(raw)}})
        else:
            entries.append(entry | {"data": values.ravel().tolist()})
    listed: dict[str, Any] = {kind: entries}
    header = json_bytes(listed | dict(fields) if kind == "inputs" else dict(fields) | listed)
    if not parts:
        return header, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", BINARY_HEADER: str(len(header))}
    return b"".join([header, *parts]), headers


def json_bytes(value: object) -> bytes:
    """A value as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def _object(content: bytes, kind: Kind) -> Mapping[str, Any]:
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        start = " ".join(content[:100].decode(errors="replace").split())
        raise MessageError(f"expected JSON, got {start!r}") from None
    if not isinstance(message, Mapping):
        raise MessageError(f"expected a {_NOUNS[kind]} with a list of {kind}, got {_shown(message)}")
    return message


def _is_length(axis: object) -> bool:
    return isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0


def _binary_size(parameters: Mapping[str, Any], name: str, kind: Kind) -> int | None:
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if not _is_length(size):
        raise MessageError(f"the {kind[:-1]} {name!r} has a binary_data_size of {str(size)[:40]!r}")
    return int(size)


def _numbers(data: Sequence[Any], dtype: np.dtype[Any], found: str) -> npt.NDArray[Any]:
    kinds = int | float if dtype.kind == "f" else bool if dtype.kind == "b" else int
    wrong = next(
        (one for one in data if not isinstance(one, kinds) or (isinstance(one, bool) != (kinds is bool))), None
    )
    if wrong is not None or None in data:
        raise MessageError(f"{found}, and holds {str(wrong)[:40]!r}")
    try:
        with np.errstate(over="ignore"):  # to infinity
            return np.array(data, dtype)
    except (OverflowError, ValueError) as error:
        raise MessageError(f"{found}, and holds numbers that do not fit: {error}") from error


def _flat(data: object) -> list[Any]:
    """Values in one list; the protocol allows nested ones, too."""
    if not isinstance(data, list):
        raise MessageError(f"expected data in a list, got {_shown(data)}")
    while any(isinstance(one, list) for one in data):  # each turn takes off one level, JSON limits their number
        data = [value for one in data for value in (one if isinstance(one, list) else [one])]
    return data


def _texts(raw: bytes, found: str) -> list[bytes]:
    """BYTES: each with its length in four bytes before it."""
    texts, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw[place : place + 4].ljust(4, b"\xff"))
        if place + 4 + length > len(raw):
            raise MessageError(f"{found}, and its texts are cut off")
        texts.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    return texts


def _bytes(values: npt.NDArray[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(values, dtype=DTYPES[datatype]).tobytes()
    texts = [one if isinstance(one, bytes) else str(one).encode() for one in values.ravel().tolist()]
    return b"".join(struct.pack("<I", len(one)) + one for one in texts)


def _shown(value: object) -> str:
    return f"a {type(value).__name__}: {str(value)[:100]}"
