"""Short names to build ONNX graphs by hand, as exporters write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

value = helper.make_tensor_value_info


def means(source: str, target: str, *, axes: Sequence[int] = (2, 3), keep: bool = False) -> onnx.NodeProto:
    """A node with the mean of each channel."""
    return helper.make_node("ReduceMean", [source], [target], axes=list(axes), keepdims=int(keep))


def maps(name: str, key: int = TensorProto.STRING) -> onnx.ValueInfoProto:
    """An output of ZipMap: a sequence of maps from a class to its score."""
    one = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return helper.make_value_info(name, helper.make_sequence_type_proto(one))


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    metadata: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a model with these parts."""
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(constants))
    operators = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=8, **settings)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path
