"""Random ONNX graphs, some malformed, some damaged: the right label of each picture, or an error of maskrestore.

Every graph answers with the strongest channel of a picture, so the right labels are known without running it.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from fuzzing.guard import Outcome, guarded
from maskrestore.classifiers import OnnxClassifier
from maskrestore.errors import MaskRestoreError
from onnx_graphs import maps, save, value

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT16, TensorProto.INT8)
_NAMES = ["red", "green", "blue"]
_TARGETS = {
    "scores": [-1, 3],
    "spatial 1": [-1, 3, 1, 1],
    "last": [-1, 1, 1, 3],
    "baked": [1, 3],
    "one row": [1, -1],
    "turned": [3, -1],
    "flat": [-1],
}
"""Shapes that the scores are brought to, right and wrong ones."""
_ANSWERS = (
    *_TARGETS,
    "labels",
    "column",
    "names",
    "maps",
    "numbered maps",
    "top two",
    "segments",
    "nan",
    "two",
    "string",
)


def fuzz(seconds: float, seed: int) -> Outcome:
    """Try random graphs for some seconds."""
    return guarded(check, _cases(seed), seconds)


def _cases(seed: int) -> Iterator[int]:
    draw = random.Random(seed)
    while True:
        yield draw.randrange(2**48)


def check(case: int) -> str | None:
    """case: the seed of a graph and of the settings that it is opened with."""
    draw = random.Random(case)
    kind, answer, layout = draw.choice([*_FLOATS, *_WHOLE]), draw.choice(_ANSWERS), draw.choice(["chw", "hwc"])
    size = draw.choice([4, 8, 9])
    images = torch.rand(draw.choice([1, 2, 9]), 3, size, size, generator=torch.Generator().manual_seed(case)) * 0.3
    right = torch.arange(len(images)) % 3
    images[torch.arange(len(images)), right] += 0.5
    settings: dict[str, Any] = {}
    if kind in _WHOLE:
        settings["pixel_range"] = (0, 127)
    if draw.random() < 0.3:
        settings["micro_batch"] = draw.choice([1, 2, 8])
    if draw.random() < 0.3:
        settings["layout"] = draw.choice(["chw", "hwc", "flat"])
    if draw.random() < 0.2:
        settings["output"] = draw.choice(["y", "extra", "nothing"])
    if draw.random() < 0.1:
        settings["input_size"] = draw.choice([0, 4, 8])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder, "a.onnx")
        _write(path, draw, kind=kind, answer=answer, layout=layout, size=size)
        is_damaged = draw.random() < 0.2
        if is_damaged:
            _damage(path, draw)
        try:
            classify = OnnxClassifier(path, **settings)
            found = [classify(images).tolist() for _ in range(2)]
        except MaskRestoreError:
            return None
    if found[0] != found[1]:
        return f"{found[0]}, and when asked again {found[1]}"
    # A damaged graph may be another classifier, and who names a wrong layout gets what he asks for.
    named = settings.get("layout", layout)
    expected = (right // 2 if answer == "string" else right).tolist()  # there, two classes have one name
    if is_damaged or named != layout or found[0] == expected:
        return None
    return f"{found[0]} instead of {expected} ({answer}, {layout}, {settings})"


def _write(path: Path, draw: random.Random, *, kind: int, answer: str, layout: str, size: int) -> None:
    axes = {"chw": ["b", 3, size, size], "hwc": ["b", size, size, 3]}[layout]
    axes = [draw.choice([axis, f"free{place}"]) if draw.random() < 0.3 else axis for place, axis in enumerate(axes)]
    axes[0] = draw.choice(["b", "b", 1, 4])
    node = helper.make_node
    # A weight for each channel, so that only the right order of axes fits.
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("ReduceMean", ["f"], ["m"], axes=[2, 3] if layout == "chw" else [1, 2], keepdims=0),
        node("MatMul", ["m", "eye"], ["p"]),
    ]
    constants = [numpy_helper.from_array(np.eye(3, dtype=np.float32), "eye")]
    output = value("y", TensorProto.FLOAT, None)
    if answer in _TARGETS:
        constants.append(numpy_helper.from_array(np.array(_TARGETS[answer], np.int64), "shape"))
        nodes.append(node("Reshape", ["p", "shape"], ["y"]))
    elif answer in ("labels", "column"):
        nodes.append(node("ArgMax", ["p"], ["y"], axis=1, keepdims=int(answer == "column")))
        output = value("y", TensorProto.INT64, ["b", 1] if answer == "column" else ["b"])
    elif answer in ("names", "string"):
        words = _NAMES if answer == "names" else ["same", "same", "other"]
        nodes += [
            node("ArgMax", ["p"], ["i"], axis=1, keepdims=0),
            node("LabelEncoder", ["i"], ["y"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=words),
        ]
        output = value("y", TensorProto.STRING, ["b"])
    elif answer in ("maps", "numbered maps"):
        keys = {"classlabels_strings": _NAMES} if answer == "maps" else {"classlabels_int64s": [0, 1, 2]}
        nodes.append(node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", **keys))
        output = maps("y", TensorProto.STRING if answer == "maps" else TensorProto.INT64)
    elif answer == "top two":
        constants.append(numpy_helper.from_array(np.array([2], np.int64), "k"))
        nodes.append(node("TopK", ["p", "k"], ["best", "y"], axis=1))
        output = value("y", TensorProto.INT64, ["b", 2])
    elif answer == "segments":
        nodes.append(node("Relu", ["f"], ["y"]))
    elif answer == "nan":
        nodes += [node("Sub", ["p", "p"], ["z"]), node("Div", ["z", "z"], ["y"])]
    else:
        nodes.append(node("Identity", ["p"], ["y"]))
    outputs = [output]
    if answer == "two":
        nodes.append(node("Identity", ["m"], ["extra"]))
        outputs.insert(draw.randrange(2), value("extra", TensorProto.FLOAT, ["b", 3]))
    save(path, nodes, [value("x", kind, axes)], outputs, constants)


def _damage(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 10])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
