"""Questions and answers of the Open Inference Protocol, as clients send and get them.

A question is about the pictures alone. What else it holds is refused, since it would be lost: further inputs,
parameters that only some servers know, versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from maskrestore.classifiers.open_inference_messages import MessageError, read_message, write_message
from maskrestore.gateway.config import LimitsConfig
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.models import ShieldedModel
from maskrestore.gateway.pictures import pictures_of_tensor

__all__ = ["Question", "read_question", "write_answer"]

_FIELDS = {"id", "parameters", "inputs", "outputs"}
_PARAMETERS = {"binary_data_output", "timeout", "content_type"}
_INPUT_PARAMETERS = {"binary_data_size", "content_type"}
_OUTPUT_PARAMETERS = {"binary_data", "content_type"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request for labels."""

    id: str | None
    pictures: list[Tensor]
    outputs: dict[str, bool] | None
    """The outputs that are wanted, and whether each is sent in bytes. ``None``: all."""
    binary: bool
    """Whether outputs are sent in bytes for which nothing else is said."""
    timeout: float | None
    """Seconds that the client waits, if it says so (``timeout`` in microseconds, as Triton's clients send it)."""


def read_question(content: bytes, header_length: str | None, model: ShieldedModel, limits: LimitsConfig) -> Question:
    """Read the body of a request. Raises MessageError, InvalidImageError and RefusedError for what it must not hold."""
    message, tensors = read_message(content, header_length, "inputs")
    _check_known(message, _FIELDS, "the request", "fields")
    parameters = _parameters(message.get("parameters"), "the request", _PARAMETERS)
    wanted = model.interface.input.name
    if set(tensors) != {wanted}:
        raise RefusedError(
            400, f"expected one input, the pictures {wanted!r}, got: {', '.join(tensors) or 'none'}; further inputs "
            "cannot be passed on"
        )  # fmt: skip
    tensor = tensors[wanted]
    _parameters(tensor.parameters, f"the input {wanted!r}", _INPUT_PARAMETERS)
    identity = message.get("id")
    if not isinstance(identity, str | None):
        raise MessageError("expected a text as id")
    timeout = parameters.get("timeout")
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0):
        raise MessageError(f"expected a timeout in whole microseconds, got {str(timeout)[:40]}")
    pictures = pictures_of_tensor(
        tensor, model.interface, view=model.view, most=limits.pictures, most_pixels=limits.pixels
    )
    return Question(
        id=identity,
        pictures=pictures,
        outputs=_outputs(message.get("outputs"), parameters, model),
        binary=_flag(parameters, "binary_data_output"),
        timeout=timeout / 1e6 if timeout else None,
    )


def write_answer(
    question: Question,
    model: ShieldedModel,
    outputs: Mapping[str, tuple[str, np.ndarray[Any, Any]]],
    *,
    told: Mapping[str, str | bool],
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers.

    outputs: datatype and values by name. told: parameters of the answer, without the prefix of their names.
    """
    fields: dict[str, Any] = {
        "model_name": model.name,
        "parameters": {f"maskrestore_{name}": value for name, value in told.items()},
    }
    if question.id is not None:
        fields["id"] = question.id
    missing = set(question.outputs or ()) - set(outputs)
    if missing:
        raise RefusedError(400, f"the model has no output {', '.join(sorted(missing))}; it has: {', '.join(outputs)}")
    chosen = dict.fromkeys(outputs, question.binary) if question.outputs is None else question.outputs
    tensors = [(name, *outputs[name], binary) for name, binary in chosen.items()]
    texts = [
        (name, kind, _texts(values) if kind == "BYTES" else values, binary) for name, kind, values, binary in tensors
    ]
    return write_message(fields, "outputs", texts)


def _outputs(entries: Any, parameters: Mapping[str, Any], model: ShieldedModel) -> dict[str, bool] | None:
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in entries
    ):
        raise MessageError(f"expected a list of outputs with names, got {str(entries)[:100]}")
    wanted = {}
    for one in entries:
        name = one["name"]
        own = _parameters(one.get("parameters"), f"the output {name[:100]!r}", _OUTPUT_PARAMETERS)
        wanted[name] = _flag({"binary_data": _flag(parameters, "binary_data_output")} | dict(own), "binary_data")
    if model.interface.answer != "upstream" and set(wanted) != {model.interface.output}:
        raise RefusedError(400, f"the model has the output {model.interface.output!r}, got: {', '.join(wanted)[:200]}")
    return wanted


def _parameters(value: object, what: str, known: set[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MessageError(f"expected parameters of {what} in an object, got {str(value)[:100]}")
    _check_known(value, known, what, "parameters")
    return value


def _check_known(value: Mapping[str, Any], known: set[str], what: str, kind: str) -> None:
    unknown = ", ".join(sorted(str(one)[:100] for one in value if one not in known))
    if unknown:
        listed = ", ".join(sorted(known))
        raise RefusedError(400, f"{what} has {kind} that cannot be passed on: {unknown}; known: {listed}")


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise MessageError(f"expected true or false for {name}, got {str(value)[:40]}")
    return value


def _texts(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """BYTES as JSON can hold them."""
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in values.ravel().tolist()]
    return np.array([*texts, None], dtype=object)[:-1].reshape(values.shape)
