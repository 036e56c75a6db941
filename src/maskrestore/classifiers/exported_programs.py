"""Load programs of ``torch.export`` (``.pt2``) that may be hostile: nothing is unpickled and no code of theirs runs.

``torch.export.load`` unpickles parts of a file, looks functions up by names in the file and calls them, and evaluates
texts of it as Python. So everything is checked first, against lists of what harmless programs hold, and what is loaded
is written anew from what was checked.
"""

from __future__ import annotations

import ast
import io
import json
import operator
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskrestore.errors import ClassifierError

__all__ = ["load_exported_program"]

_ENVIRONMENT = threading.Lock()
_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

_NUMBERS = {
    *(f"_operator.{name}" for name in vars(operator) if not name.startswith("_") and name[0].islower()),
    "math.trunc",
} - {f"_operator.{name}" for name in ("attrgetter", "itemgetter", "methodcaller", "call", "setitem", "delitem")}
"""Functions of numbers, besides ``torch.sym_...`` and the operations of ``torch.ops``."""

_PLAIN = re.compile(r'[\w\s.,:"\\\[\]{}<>/*+-]*')
"""Names and tree specifications. They become parts of generated source: without round brackets they call nothing."""

_FREE_TEXTS = ("as_string",)
_DROPPED = ("metadata", "nn_module_stack")
"""What programs note about the source they were made from; nothing needs it."""


def load_exported_program(path: Path) -> nn.Module:
    """The module of a program that ``torch.export.save`` wrote.

    Raises ClassifierError for a file that cannot be loaded, that holds more than tensors and operations of PyTorch, or
    that was compiled for one machine.
    """
    try:
        file = _checked_copy(path)
        with _weights_only(), warnings.catch_warnings(action="ignore"):
            return torch.export.load(file).module()
    except ClassifierError:
        raise
    except Exception as error:  # PyTorch's own code raises anything for a file that it does not know
        raise ClassifierError(
            f"{path}: not a usable program of torch.export: {type(error).__name__}: {error}; export it again with this "
            f"version of PyTorch ({torch.__version__}), or to ONNX"
        ) from error


def _checked_copy(path: Path) -> io.BytesIO:
    """The file with its entries checked. Raises ClassifierError for anything that might run code."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for name, content in entries.items():
        if "/aotinductor/" in f"/{name}":
            raise ClassifierError(
                f"{path}: it holds code compiled for one machine ({name}), which is not run; save the program itself "
                "with torch.export.save, or export it to ONNX"
            )
        if name.endswith(".json") and "extra" not in name:
            entries[name] = json.dumps(_checked(json.loads(content), path)).encode()
    file = io.BytesIO()
    if "version" in entries:  # as PyTorch before 2.8 writes it
        with zipfile.ZipFile(file, "w") as copy:
            for name, content in entries.items():
                copy.writestr(name, content)
    else:
        writer = torch._C.PyTorchFileWriter(file)
        for name, content in entries.items():
            inner = name.partition("/")[2]
            if inner and not inner.startswith((".data/", "byteorder", "extra/")):  # the writer adds these
                writer.write_record(inner, content, len(content))
        writer.write_end_of_file()
    file.seek(0)
    return file


def _checked(value: Any, path: Path, key: str = "") -> Any:
    """A JSON value without what nothing needs. Raises ClassifierError for what is on none of the lists."""
    if isinstance(value, dict):
        return {name: {} if name in _DROPPED and isinstance(part, dict) else _checked(part, path, name)
                for name, part in value.items() if _is_plain(name, path)}  # fmt: skip
    if isinstance(value, list):
        return [_checked(part, path, key) for part in value]
    if not isinstance(value, str) or key in _FREE_TEXTS:
        return value
    if key in ("target", "as_operator"):
        _check_operation(value, path)
    elif key == "expr_str":
        _check_expression(value, path)
    elif key == "path_name":
        if not re.fullmatch(r"(weight|tensor)_\d+", value):
            raise ClassifierError(f"{path}: it holds the object {value!r} besides tensors, which would be unpickled; "
                                  "export a model of tensors only, or to ONNX")  # fmt: skip
    else:
        _is_plain(value, path)
    return value


def _check_operation(name: str, path: Path) -> None:
    known = name in _NUMBERS or re.fullmatch(r"torch\.sym_\w+", name) is not None
    if name.startswith("torch.ops.") and not name.startswith("torch.ops.aten.from_file"):
        found: Any = torch.ops
        for part in name.split(".")[2:]:
            found = getattr(found, part, None)
        known = isinstance(found, torch._ops.OperatorBase)
    if not known:
        raise ClassifierError(
            f"{path}: it calls {name[:100]!r}, which is no operation of PyTorch here; if it belongs to a package, "
            "write a Python module that imports it and loads the program, and give its name as package.module:attribute"
        )


def _check_expression(text: str, path: Path) -> None:
    """An expression of sizes, which SymPy evaluates as Python: numbers, symbols and functions in capitals only.

    For example ``Add(Symbol('s31', positive=True, integer=True), Integer(1))``.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        tree = None
    allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.Name, ast.Constant,
               ast.keyword, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)  # fmt: skip
    for node in ast.walk(tree) if tree is not None else [None]:
        is_allowed = isinstance(node, allowed)
        if isinstance(node, ast.Constant):
            is_allowed = isinstance(node.value, int | float) or bool(re.fullmatch(r"[a-zA-Z]\w*", str(node.value)))
        elif isinstance(node, ast.Name):
            is_allowed = not node.id.startswith("_")
        elif isinstance(node, ast.Call):
            is_allowed = isinstance(node.func, ast.Name) and node.func.id[:1].isupper()
        if not is_allowed:
            raise ClassifierError(f"{path}: it holds {text[:100]!r} where the size of an axis is expected")


def _is_plain(text: str, path: Path) -> bool:
    if not _PLAIN.fullmatch(text):
        raise ClassifierError(f"{path}: it holds {text[:100]!r} where a name is expected")
    return True


@contextmanager
def _weights_only() -> Iterator[None]:
    """A context in which ``torch.load`` reads tensors only, whatever its caller says."""
    with _ENVIRONMENT:
        before = os.environ.get(_FORCED)
        os.environ[_FORCED] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCED]
            else:
                os.environ[_FORCED] = before
