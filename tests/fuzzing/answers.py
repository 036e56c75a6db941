"""Random answers of classifiers: a right label for each image, or an error of maskrestore.

Answers are values of any type, shape and dtype, as functions and models return them, and replies of servers, some of
them damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import hypothesis.extra.numpy as hypothesis_numpy
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzzing.guard import Outcome, guarded
from maskrestore.classifiers.answers import checked_labels, hard_labels
from maskrestore.classifiers.http_images import LabelPath
from maskrestore.classifiers.model_answers import ModelAnswers
from maskrestore.classifiers.open_inference import read_reply
from maskrestore.errors import MaskRestoreError

_AT_A_TIME = 200

_DTYPES = st.one_of(
    hypothesis_numpy.boolean_dtypes(),
    hypothesis_numpy.integer_dtypes(endianness="?"),
    hypothesis_numpy.unsigned_integer_dtypes(endianness="?"),
    hypothesis_numpy.floating_dtypes(endianness="?"),
    hypothesis_numpy.complex_number_dtypes(),
    hypothesis_numpy.unicode_string_dtypes(max_len=4),
    hypothesis_numpy.byte_string_dtypes(max_len=4),
    hypothesis_numpy.datetime64_dtypes(),
)
_ARRAYS = hypothesis_numpy.arrays(
    _DTYPES, hypothesis_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-5, 5), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=12,
)
_VALUES = st.recursive(
    st.one_of(_SCALARS, _ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(-3, 3)), inner, max_size=4),
    ),
    max_leaves=8,
)
_REPLIES = st.tuples(
    st.sampled_from(["FP32", "FP64", "FP16", "INT64", "INT8", "UINT8", "BOOL", "BYTES", "FP8", ""]),
    st.lists(st.integers(-1, 4), max_size=3),
    st.one_of(st.lists(_SCALARS.filter(lambda value: not isinstance(value, bytes)), max_size=8), _JSON),
)
_CASES = st.one_of(
    st.tuples(st.just("function"), _VALUES, st.integers(1, 4)),
    st.tuples(st.just("model"), _VALUES, st.integers(1, 4)),
    st.tuples(st.just("path"), _JSON, st.sampled_from(["@", "a", "[0]", "max_by(@, &a)", "keys(@)[0]", "length(@)"])),
    st.tuples(st.just("reply"), _REPLIES, st.binary(max_size=6)),
    st.tuples(st.just("bytes"), st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4))),
)


def cases(start: int) -> Iterator[Any]:
    """Cases without an end, the same for the same number."""
    found: list[Any] = []

    def collect(case: Any) -> None:
        found.append(case)

    options = settings(
        max_examples=_AT_A_TIME,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    while True:
        seed(start)(options(given(_CASES)(collect)))()
        yield from found
        found.clear()
        start += 1


def check(case: Any) -> str | None:
    """What is wrong with the way an answer is read, or ``None``."""
    kind, value, more = case
    try:
        if kind == "function":
            return _judge(hard_labels(value, more), value, more)
        if kind == "model":
            return _judge(checked_labels(*ModelAnswers()(value, more)), value, more)
        if kind == "path":
            LabelPath(more)(json.dumps(value).encode())
        elif kind == "bytes":
            read_reply(value, more, None)
        else:
            return _reply(*value, damage=more)
    except MaskRestoreError as error:
        return None if str(error).strip() else f"an error without words: {error!r}"
    return None


def _judge(labels: torch.Tensor, value: Any, count: int) -> str | None:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        return f"{labels!r} for {count} images"
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    if isinstance(array, list) and array and all(type(one) is int for one in array):
        right = array
    elif isinstance(array, np.ndarray) and array.shape == (count,) and array.dtype.kind in "iu":
        right = [int(one) for one in array]
    elif isinstance(array, np.ndarray) and array.shape[:1] == (count,) and array.ndim == 2 and array.dtype.kind == "f":
        right = array.argmax(axis=1).tolist() if array.shape[1] > 1 else labels.tolist()
    else:
        return None
    return None if labels.tolist() == right else f"{labels.tolist()} instead of {right}"


def _reply(datatype: str, shape: list[int], data: Any, *, damage: bytes) -> str | None:
    """Read a reply, whole and with some bytes replaced."""
    outputs = [{"name": "a", "datatype": datatype, "shape": shape, "data": data}]
    content = json.dumps({"outputs": outputs}).encode()
    if damage:
        place = damage[0] % len(content)
        content = content[:place] + damage[1:] + content[place + len(damage) :]
    values = read_reply(content, None, None)
    is_flat = isinstance(data, list) and not any(isinstance(one, list) for one in data)
    if not damage and datatype in ("FP64", "INT64") and is_flat:
        same = np.array_equal(values.ravel(), np.array(data, values.dtype), equal_nan=datatype == "FP64")
        if values.shape != tuple(shape) or not same:
            return f"read {values!r} from {outputs}"
    return None


def fuzz(seconds: float, seed: int) -> Outcome:
    """Try answers."""
    return guarded(check, cases(seed), seconds)
