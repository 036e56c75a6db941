"""The Open Inference Protocol, version 2, as KServe, Triton, MLServer, TorchServe and OpenVINO speak it.

A model is described by its metadata; a question and its answer are messages of named tensors
(``open_inference_messages.py``).

Source: the specification of the Open Inference Protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrestore.classifiers.normalisation import Layout
from maskrestore.classifiers.onnx_inputs import OnnxInput, picture_input
from maskrestore.classifiers.onnx_outputs import answer_names
from maskrestore.classifiers.open_inference_messages import (
    DTYPES,
    MessageError,
    MessageTensor,
    read_message,
    write_message,
)
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError

__all__ = ["ModelAddress", "ServedModel", "datatype_of", "question", "read_outputs", "read_reply", "served_model"]

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
    # Some servers can send 16-bit numbers in bytes only.
    asked: dict[str, Any] = {"parameters": {"binary_data_output": True}} if model.binary else {}
    if model.output is not None:
        asked = {"outputs": [{"name": model.output, "parameters": {"binary_data": model.binary}}]}
    tensor = np.ascontiguousarray(values, dtype=DTYPES[model.datatype])
    return write_message(asked, "inputs", [(model.input.name, model.datatype, tensor, model.binary)])


def read_reply(content: bytes, header_length: str | None, wanted: str | None) -> npt.NDArray[Any]:
    """The tensor that holds the answer. Raises ClassifierOutputError for a reply of another form.

    header_length: the header :data:`BINARY_HEADER`, if the reply has it. wanted: the output, or ``None`` for the only
    one.
    """
    tensors = read_outputs(content, header_length)
    chosen = wanted if wanted is not None else next(iter(tensors), None)
    if chosen not in tensors:
        raise ClassifierOutputError(f"expected the output {wanted or 'of the model'!r}, got: {', '.join(tensors)}")
    if wanted is None and len(tensors) > 1:
        raise ConfigError(
            f"the model answers with {len(tensors)} outputs, and it is not clear which one is the answer "
            f"({', '.join(tensors)}); name the one that holds the scores of the classes, or the labels, with "
            "output=NAME (--output NAME)"
        )
    try:
        values = tensors[chosen].values()
    except MessageError as error:
        raise ClassifierOutputError(str(error)) from error
    if values.dtype != object:
        return values
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in values.ravel().tolist()]
    return np.array([*texts, None], dtype=object)[:-1].reshape(values.shape)


def read_outputs(content: bytes, header_length: str | None) -> dict[str, MessageTensor]:
    """All outputs of a reply, by name. Raises ClassifierError for an error that the server reports instead, and
    ClassifierOutputError for a reply of another form.
    """
    try:
        reply, tensors = read_message(content, header_length, "outputs")
    except MessageError as error:
        raise ClassifierOutputError(str(error)) from error
    if "outputs" not in reply:
        if "error" in reply:
            raise ClassifierError(f"the server answered with an error: {str(reply['error'])[:300]}")
        raise ClassifierOutputError(f"expected a reply with a list of outputs, got {_kind(reply)}")
    return tensors


def datatype_of(kind: str) -> str:
    """The protocol's name of a type of ONNX Runtime: ``tensor(float)`` -> ``FP32``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {theirs: ours for ours, theirs in _ONNX_NAMES.items()}.get(name, name.upper())


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


def _kind(value: object) -> str:
    return f"a {type(value).__name__}: {str(value)[:100]}"
