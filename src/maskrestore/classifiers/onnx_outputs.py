"""Which output of an ONNX file holds the answer, and the names of classes that it can give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrestore.classifiers.onnx_inputs import FLOATS, INTEGERS, OnnxInput
from maskrestore.errors import ClassifierError, ConfigError, MissingDependencyError

__all__ = ["answer_names", "classes_in_file", "one_score"]

_MAPS = tuple(f"seq(map({key},tensor(float)))" for key in ("string", "int64"))
_LABELS = (*INTEGERS, "tensor(bool)", "tensor(string)")


def answer_names(session: Any, wanted: str | None, path: Path | str) -> list[str]:
    """The output that holds the answer, and after it the one that names the classes, if that is another one.

    wanted: its name or index. Raises ConfigError if it does not exist, or if several may be the answer; ClassifierError
    if none can.
    """
    outputs = session.get_outputs()
    named = {one.name: one for one in outputs}
    listed = "; ".join(f"{one.name}: {one.type} of shape {one.shape}" for one in outputs)
    if wanted is None:
        wanted = _answer(outputs)
    elif wanted not in named and wanted.isdecimal() and int(wanted) < len(outputs):
        wanted = str(outputs[int(wanted)].name)
    elif wanted not in named:
        raise ConfigError(f"{path}: the model has no output {wanted!r}; it has: {listed}")
    if wanted is None:
        raise ConfigError(
            f"{path} has {len(outputs)} outputs, and it is not clear which one is the answer ({listed}); name the one "
            "that holds the scores of the classes, or the labels, with output=NAME (--output NAME)"
        )
    if named[wanted].type not in (*_LABELS, *_MAPS, *FLOATS) or named[wanted].type == "tensor(bfloat16)":
        raise ClassifierError(
            f"{path}: expected labels or scores, the output {wanted!r} is {named[wanted].type}; export it as float"
        )
    fixed = [axis for axis in named[wanted].shape[1:] if isinstance(axis, int) and axis > 1]
    if len(fixed) > 1:
        raise ClassifierError(
            f"{path}: expected labels (B,) or scores (B, K), the output {wanted!r} has the shape "
            f"{named[wanted].shape}, as segmentation models and detectors answer; this is for classifiers"
        )
    maps = [one.name for one in outputs if one.type == _MAPS[0] and one.name != wanted]
    return [wanted, *(maps[:1] if named[wanted].type == "tensor(string)" else [])]


def one_score(session: Any, output: str, taken: OnnxInput) -> bool:
    """Whether an output is declared as one number for each image."""
    (entry,) = (one for one in session.get_outputs() if one.name == output)
    shape = _without_empty_axes(entry.shape)
    # (K,) with a number may be the scores of the only image.
    alone = len(entry.shape) == 1 and isinstance(shape[0], int) and taken.batch in (1, None)
    return entry.type in FLOATS and len(shape) == 1 and not (alone and shape[0] > 1)


def _answer(outputs: Sequence[Any]) -> str | None:
    """The only output that can be the answer."""
    if len(outputs) == 1:
        return str(outputs[0].name)
    shapes = {one.name: _without_empty_axes(one.shape) for one in outputs}
    # Detectors have boxes and a number of finds or a class for each: their integers are not the label of a picture.
    finds = any(len(shape) == 3 or (len(shape) == 2 and shape[1] == 4) for shape in shapes.values()) and any(
        one.type in FLOATS and len(one.shape) == 1 for one in outputs
    )
    spatial = any(len(shape) > 2 for shape in shapes.values())
    labels = [one.name for one in outputs if one.type in _LABELS and len(shapes[one.name]) == 1 and one.shape]
    scores = [one for one in outputs if one.type in _MAPS or (len(shapes[one.name]) == 2)]
    if finds or (spatial and labels):
        return None
    if len(labels) == 1:
        return str(labels[0])
    if not labels and len(scores) == 1 and (scores[0].type in FLOATS or scores[0].type in _MAPS):
        return str(scores[0].name)
    return None


def _without_empty_axes(shape: Sequence[Any]) -> list[Any]:
    return [*shape[:1], *(axis for axis in shape[1:] if axis != 1)]


def classes_in_file(path: Path, output: str) -> tuple[str, ...] | None:
    """The names that the operation behind an output of names can give, in their order; None if it lists none.

    Raises MissingDependencyError without the package ``onnx``, which reads the file.
    """
    try:
        import onnx  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("onnx", "onnx") from error
    graph = onnx.load(str(path), load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    tables = {
        one.name: tuple(text.decode(errors="replace") for text in one.string_data)
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.STRING
    }
    waiting, seen = [output], set()
    while waiting:
        name = waiting.pop(0)
        if name in tables:
            return tuple(dict.fromkeys(tables[name]))
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        for attribute in node.attribute:
            if attribute.strings and attribute.name in ("classlabels_strings", "values_strings", "cats_strings"):
                return tuple(dict.fromkeys(text.decode(errors="replace") for text in attribute.strings))
        waiting += node.input
    return None
