"""The Open Inference Protocol, version 2, as KServe, Triton, MLServer, TorchServe and OpenVINO speak it.

A model is described by its metadata; a question and its answer are named tensors, in JSON or, where the server offers
that, in raw bytes after a JSON header (the "binary tensor data extension").

Source: the specification of the Open Inference Protocol, and Triton's of the extension.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrestore.classifiers.http_transport import parsed_json
from maskrestore.classifiers.normalisation import Layout
from maskrestore.classifiers.onnx_inputs import OnnxInput, picture_input
from maskrestore.classifiers.onnx_outputs import answer_names
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError

__all__ = ["BINARY_HEADER", "ModelAddress", "ServedModel", "question", "read_reply", "served_model"]

BINARY_HEADER = "Inference-Header-Content-Length"
"""The header that holds the length of the JSON part."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_ONNX_NAMES = {"FP16": "float16", "FP32": "float", "FP64": "double", "BOOL": "bool", "BYTES": "string"}
_ADDRESS = re.compile(r"(?P<server>https?://.+?/v2)/models/(?P<model>[^/?#]+(?:/versions/[^/?#]+)?)(?:/infer)?/?")


@dataclass(frozen=True)
class ModelAddress:
    """The addresses of a server and of a model on it."""

    server: str
    model: str

    @classmethod
    def of(cls, address: str) -> ModelAddress | None:
        """From ``https://host/v2/models/NAME``, with or without a version; ``None`` for another address."""
        found = _ADDRESS.fullmatch(address)
        return None if found is None else cls(found["server"], f"{found['server']}/models/{found['model']}")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What the metadata say, and what was wished for."""

    input: OnnxInput
    datatype: str
    """Of the input, in the protocol's own words."""
    output: str | None
    """The output that holds the answer; ``None`` if the metadata name none."""
    binary: bool
    """Whether tensors are sent in bytes."""


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    shape: list[Any]


class _Declared:
    """Metadata in the form of ONNX Runtime's sessions, so that the same rules choose the input and the output."""

    def __init__(self, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
        self._inputs, self._outputs = inputs, outputs

    def get_inputs(self) -> list[_Tensor]:
        return self._inputs

    def get_outputs(self) -> list[_Tensor]:
        return self._outputs


def served_model(
    metadata: object,
    server: object,
    address: str,
    *,
    layout: Layout | None,
    input_size: tuple[int, int] | None,
    output: str | None,
    binary: bool | None,
) -> ServedModel:
    """Read the metadata of a model and of its server.

    server: ``None`` if the server has none. binary: ``None``: if the server offers it. Raises ClassifierError for
    metadata of another form, and what :class:`~maskrestore.classifiers.OnnxClassifier` raises for models that take no
    pictures, or where it is unclear which output is the answer.
    """
    if not isinstance(metadata, Mapping):
        raise ClassifierError(f"{address}: expected the metadata of a model, got {_kind(metadata)}")
    extensions = server.get("extensions") if isinstance(server, Mapping) else None
    offered = isinstance(extensions, list) and "binary_tensor_data" in extensions
    inputs, outputs = (_declared(metadata.get(name), name, address) for name in ("inputs", "outputs"))
    # Some servers leave the tensors of a model open; then images are sent in the usual form.
    datatypes = (
        {one["name"]: one["datatype"] for one in metadata.get("inputs") or []} if inputs else {"input-0": "FP32"}
    )
    shown = _Declared(inputs or [_Tensor("input-0", "tensor(float)", ["", 3, "", ""])], outputs)
    taken = picture_input(shown, address, layout, input_size)
    name = answer_names(shown, output, address)[0] if outputs else output
    return ServedModel(
        input=taken, datatype=datatypes[taken.name], output=name, binary=offered if binary is None else binary
    )


def question(model: ServedModel, values: npt.NDArray[Any]) -> tuple[bytes, dict[str, str]]:
    """The body of a request about a tensor, and its headers."""
    tensor = np.ascontiguousarray(values, dtype=_DTYPES[model.datatype])
    entry: dict[str, Any] = {"name": model.input.name, "shape": list(tensor.shape), "datatype": model.datatype}
    # Some servers can send 16-bit numbers in bytes only.
    asked: dict[str, Any] = {"parameters": {"binary_data_output": True}} if model.binary else {}
    if model.output is not None:
        asked = {"outputs": [{"name": model.output, "parameters": {"binary_data": model.binary}}]}
    if not model.binary:
        body = {"inputs": [entry | {"data": tensor.ravel().tolist()}], **asked}
        return _json(body), {"Content-Type": "application/json"}
    content = tensor.tobytes()
    header = _json({"inputs": [entry | {"parameters": {"binary_data_size": len(content)}}], **asked})
    headers = {"Content-Type": "application/octet-stream", BINARY_HEADER: str(len(header))}
    return header + content, headers


def read_reply(content: bytes, header_length: str | None, wanted: str | None) -> npt.NDArray[Any]:
    """The tensor that holds the answer. Raises ClassifierOutputError for a reply of another form.

    header_length: the header :data:`BINARY_HEADER`, if the reply has it. wanted: the output, or ``None`` for the only
    one.
    """
    length = len(content)
    if header_length is not None:
        length = int(header_length) if re.fullmatch(r"\d{1,12}", header_length.strip()) else -1
        if not 0 < length <= len(content):
            raise ClassifierOutputError(
                f"the reply has {len(content)} bytes, and its header {BINARY_HEADER} is {header_length[:40]!r}"
            )
    reply = parsed_json(content[:length])
    if isinstance(reply, Mapping) and "error" in reply and "outputs" not in reply:
        raise ClassifierError(f"the server answered with an error: {str(reply['error'])[:300]}")
    outputs = reply.get("outputs") if isinstance(reply, Mapping) else None
    if not isinstance(outputs, list) or not all(isinstance(one, Mapping) for one in outputs):
        raise ClassifierOutputError(f"expected a reply with a list of outputs, got {_kind(reply)}")
    tensors, place = {}, length
    for one in outputs:
        name = str(one.get("name"))[:200]
        size = _binary_size(one, name)
        tensors[name] = (one, None if size is None else content[place : place + size])
        place += size or 0
    if place > len(content):
        raise ClassifierOutputError(f"the reply is cut off: it should have {place} bytes, and has {len(content)}")
    chosen = wanted if wanted is not None else next(iter(tensors), None)
    if chosen not in tensors:
        raise ClassifierOutputError(f"expected the output {wanted or 'of the model'!r}, got: {', '.join(tensors)}")
    if wanted is None and len(tensors) > 1:
        raise ConfigError(
            f"the model answers with {len(tensors)} outputs, and it is not clear which one is the answer "
            f"({', '.join(tensors)}); name the one that holds the scores of the classes, or the labels, with "
            "output=NAME (--output NAME)"
        )
    return _values(*tensors[chosen], chosen)


def _declared(entries: object, kind: str, address: str) -> list[_Tensor]:
    found = []
    if not isinstance(entries, list | None):
        raise ClassifierError(f"{address}: expected a list of {kind} in the metadata, got {_kind(entries)}")
    for entry in entries or []:
        shape = entry.get("shape") if isinstance(entry, Mapping) else None
        if not isinstance(shape, list) or not all(isinstance(axis, int | str) for axis in shape):
            shape = None
        if shape is None or not isinstance(entry.get("name"), str) or not isinstance(entry.get("datatype"), str):
            raise ClassifierError(f"{address}: expected {kind} with name, datatype and shape, got {str(entry)[:200]}")
        datatype = entry["datatype"]
        name = _ONNX_NAMES.get(datatype, datatype.lower())
        # An axis of any size is -1, in some servers as a text.
        axes = [int(axis) if str(axis).lstrip("-").isdecimal() else axis for axis in shape]
        found.append(_Tensor(entry["name"], f"tensor({name})", [axis if axis != -1 else "" for axis in axes]))
    return found


def _binary_size(entry: Mapping[str, Any], name: str) -> int | None:
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ClassifierOutputError(f"the output {name!r} has a binary_data_size of {str(size)[:40]!r}")
    return size


def _values(entry: Mapping[str, Any], raw: bytes | None, name: str) -> npt.NDArray[Any]:
    datatype, shape = entry.get("datatype"), entry.get("shape")
    found = f"the output {name!r} is {str(datatype)[:40]} of shape {str(shape)[:80]}"
    if not isinstance(shape, list) or not all(isinstance(axis, int) and axis >= 0 for axis in shape):
        raise ClassifierOutputError(f"{found}; expected a list of lengths as its shape")
    count = math.prod(shape)
    if datatype == "BYTES":
        texts = _texts(raw, found) if raw is not None else _flat(entry.get("data"))
        if not all(isinstance(text, str) for text in texts):
            raise ClassifierOutputError(f"{found}, and holds something else than texts")
        array = np.array([*texts, None], dtype=object)[:-1]
    elif not isinstance(datatype, str) or datatype not in _DTYPES:
        raise ClassifierOutputError(f"{found}; expected one of {', '.join(_DTYPES)} or BYTES")
    elif raw is not None:
        if len(raw) % _DTYPES[datatype].itemsize:
            raise ClassifierOutputError(f"{found}, in {len(raw)} bytes")
        array = np.frombuffer(raw, _DTYPES[datatype]).astype(_DTYPES[datatype].newbyteorder("="))
    else:
        array = _numbers(_flat(entry.get("data")), _DTYPES[datatype], found)
    if array.size != count:
        raise ClassifierOutputError(f"{found}, and holds {array.size} values")
    return array.reshape(shape)


def _numbers(data: Sequence[Any], dtype: np.dtype[Any], found: str) -> npt.NDArray[Any]:
    kinds = int | float if dtype.kind == "f" else bool if dtype.kind == "b" else int
    wrong = next(
        (one for one in data if not isinstance(one, kinds) or (isinstance(one, bool) != (kinds is bool))), None
    )
    if wrong is not None or None in data:
        raise ClassifierOutputError(f"{found}, and holds {str(wrong)[:40]!r}")
    try:
        return np.array(data, dtype)
    except (OverflowError, ValueError) as error:
        raise ClassifierOutputError(f"{found}, and holds numbers that do not fit: {error}") from error


def _flat(data: object) -> list[Any]:
    """Values in one list; the protocol allows nested ones, too."""
    if not isinstance(data, list):
        raise ClassifierOutputError(f"expected data in a list, got {_kind(data)}")
    while any(isinstance(one, list) for one in data):  # each turn takes off one level, JSON limits their number
        data = [value for one in data for value in (one if isinstance(one, list) else [one])]
    return data


def _texts(raw: bytes, found: str) -> list[str]:
    texts, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw.ljust(place + 4, b"\xff"), place)
        if place + 4 + length > len(raw):
            raise ClassifierOutputError(f"{found}, and its texts are cut off")
        texts.append(raw[place + 4 : place + 4 + length].decode(errors="replace"))
        place += 4 + length
    return texts


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _kind(value: object) -> str:
    return f"a {type(value).__name__}: {str(value)[:100]}"
