"""Random requests to the gateway: pictures in [0, 1], or an error with a status that blames the client.

Requests are of the Open Inference Protocol, in JSON and in bytes, with fields replaced by values of any type. Some of
them are damaged.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from fuzzing.guard import Outcome, guarded
from maskrestore.classifiers.normalisation import Normalisation
from maskrestore.classifiers.onnx_inputs import OnnxInput
from maskrestore.gateway.config import LimitsConfig
from maskrestore.gateway.errors import described
from maskrestore.gateway.interface import Interface
from maskrestore.gateway.protocol import read_question

LIMITS = LimitsConfig(pictures=4, queue=4, pixels=2**12)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), 1e308, "", "FP32", "x" * 300,
    "\ud800", [], {}, [[]], [None], [1, 3, 4, 4], [1, 3, 4, -4], [4, 3], [0, 3, 4, 4], [1, 3, 2**31, 2**31], [[[0.5]]],
    [0.5] * 48, [1e39] * 48, ["AAAA"], {"binary_data_size": 192}, {"binary_data_size": 2**40}, {"timeout": 1},
)  # fmt: skip
FIELDS = ("name", "datatype", "shape", "data", "parameters")
DATATYPES = {"FP32": "float32", "FP16": "float16", "FP64": "float64", "UINT8": "uint8", "INT64": "int64"}


def interface(datatype: str, layout: Any) -> Interface:
    """Of a model that takes pictures of 4 x 4."""
    taken = OnnxInput(
        name="image", kind="tensor", dtype=np.dtype(DATATYPES[datatype]), layouts=(layout,), has_batch=True,
        has_channels=True, batch=None, channels=3, size=(4, 4),
    )  # fmt: skip
    bounds = (0.0, 255.0) if taken.dtype.kind in "iu" else (0.0, 1.0)
    normalise = Normalisation.of(0.0, 1.0, bounds)
    return Interface(
        name="m", input=taken, datatype=datatype, normalise=normalise, output="label", answer="labels",
        answer_type="INT64", answer_shape=(), declared={},
    )  # fmt: skip


def cases(seed: int) -> Iterator[Any]:
    """Datatype and layout of a model, the body of a request, and the length of its JSON part."""
    rng = random.Random(seed)
    while True:
        datatype, layout = rng.choice([*DATATYPES]), rng.choice(["chw", "hwc", "flat", "flat-hwc"])
        shape = [2, 48] if layout.startswith("flat") else [2, 3, 4, 4] if layout == "chw" else [2, 4, 4, 3]
        values = np.array([rng.randrange(2) for _ in range(96)], DATATYPES[datatype])
        entry: dict[str, Any] = {"name": "image", "datatype": datatype, "shape": shape}
        binary = rng.random() < 0.4
        entry |= {"parameters": {"binary_data_size": values.nbytes}} if binary else {"data": values.tolist()}
        message: dict[str, Any] = {"inputs": [entry]}
        for _ in range(rng.randrange(3)):
            value = copy.deepcopy(rng.choice(VALUES))
            where = rng.choice((entry, entry, message))
            where[rng.choice(FIELDS if where is entry else ("id", "inputs", "outputs", "parameters", "more"))] = value
        header = json.dumps(message).encode()
        content = bytearray(header + (values.tobytes() if binary else b""))
        for _ in range(rng.choice((0, 0, 1, 5))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        length = str(len(header)) if binary else rng.choice((None, None, "0", "-1", "9" * 30, str(len(content))))
        yield datatype, layout, bytes(content), length


def check(case: Any) -> str | None:
    """What is wrong with the way a request is read, or ``None``."""
    datatype, layout, content, length = case
    model: Any = SimpleNamespace(interface=interface(datatype, layout), view=None)
    try:
        question = read_question(content, length, model, LIMITS)
    except Exception as error:
        status, words, _ = described(error)
        if not 400 <= status < 500 or not words.strip():
            raise
        words.encode()  # a client can be told
        return None
    for picture in question.pictures:
        if picture.shape != (3, 4, 4) or not 0 <= float(picture.min()) <= float(picture.max()) <= 1:
            return f"read {picture}"
    return None if 1 <= len(question.pictures) <= LIMITS.pictures else f"read {len(question.pictures)} pictures"


def fuzz(seconds: float, seed: int) -> Outcome:
    """Try requests."""
    return guarded(check, cases(seed), seconds)
