"""Write tiny ONNX models whose answers are known: the label is the channel with the largest mean."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_model(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("N", 3, "H", "W"),
    dtype: int = TensorProto.FLOAT,
    labels: bool = False,
    inputs: int = 1,
) -> Path:
    """Logits = mean of each channel, or with ``labels`` its argmax, ``(N,)`` int64. Two inputs are added."""
    axes = [1, 2] if shape[-1] in (1, 3) and shape[1] not in (1, 3) else [2, 3]
    names = [f"image{index}" for index in range(inputs)]
    nodes = [helper.make_node("ReduceMean", ["image0"], ["logits"], axes=axes, keepdims=0)]
    if inputs == 2:
        nodes = [
            helper.make_node("Add", names, ["total"]),
            helper.make_node("ReduceMean", ["total"], ["logits"], axes=axes, keepdims=0),
        ]
    outputs = [helper.make_tensor_value_info("logits", dtype, [shape[0], 3])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [shape[0]]))
    graph = helper.make_graph(
        nodes,
        "channel-means",
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name in names],
        outputs,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path
