"""Load a model file by its content, or say why it is refused and what to do. Nothing is ever unpickled."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from maskrestore.classifiers.exported_programs import load_exported_program
from maskrestore.errors import ClassifierError

__all__ = ["load_module_file", "model_kind"]

_OWN = (
    "write a Python module that builds the network and loads its weights, and give its name as package.module:attribute"
)
_PICKLED = (
    "reading it could run any code, so it is not read. If you trust its author, save the model as TorchScript "
    "(torch.jit.script(model).save), with torch.export.save or as ONNX; or save its weights as safetensors, and " + _OWN
)
_KERAS = (
    "export it to ONNX (python -m tf2onnx.convert), or write a function that calls it and give its name as "
    "package.module:function"
)

_REFUSED: dict[str, str] = {
    "pickle": f"a pickled object; {_PICKLED}",
    "weights": f"weights without a network; {_OWN}",
    "hdf5": f"an HDF5 file, as Keras writes it; {_KERAS}",
    "keras": f"a Keras model; {_KERAS}",
    "saved model": f"a TensorFlow model; {_KERAS}",
    "transformers": (
        "a folder of transformers; write a Python module with "
        "model = transformers.AutoModelForImageClassification.from_pretrained(FOLDER), and give NAME:model"
    ),
    "tflite": "a TensorFlow Lite model; export it to ONNX (python -m tf2onnx.convert --tflite)",
    "pointer": "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull",
    "page": "a page of the web, not a model; download the file itself",
    "empty": "empty",
}
_READABLE = "expected ONNX (.onnx), TorchScript (.pt) or a program of torch.export (.pt2)"

_PICKLES = (".pkl", ".pickle", ".joblib", ".pth", ".pt", ".ckpt", ".bin")

_MOST_COMPRESSED = 2**28
"""Bytes that a file may take beyond its own length: PyTorch compresses code only, a few megabytes of it."""

ModelKind = Literal["onnx", "torchscript", "exported"]


def model_kind(path: Path) -> ModelKind:
    """What a model file or folder is, by its content; ONNX that cannot be told by it, if its suffix says so.

    Raises ClassifierError for all other kinds, with what to do about it.
    """
    kind = _kind(path)
    if kind in ("onnx", "torchscript", "exported"):
        return kind  # type: ignore[return-value]
    if kind is None:
        raise ClassifierError(f"{path}: not a model that is known here; {_READABLE}")
    detail = f" ({_pickled_class(path)})" if kind == "pickle" and zipfile.is_zipfile(path) else ""
    raise ClassifierError(f"{path}{detail}: this is {_REFUSED[kind]}")


def load_module_file(path: Path) -> nn.Module:
    """The module in a file of TorchScript or ``torch.export``, on the CPU.

    Raises ClassifierError for a file of another kind, or one that cannot be loaded, or would read or write files.
    """
    if not path.exists():
        raise ClassifierError(f"{path}: {_READABLE}, found nothing")
    kind = model_kind(path)
    if kind == "onnx":
        raise ClassifierError(f"{path}: this is an ONNX file, which OnnxClassifier runs")
    if kind == "exported":
        return load_exported_program(path)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".py") and re.search(rb"\b(torch|aten)\.(save|from_file)\(", archive.read(name)):
                raise ClassifierError(f"{path}: its code reads or writes files ({name}), which no classifier needs")
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of PyTorch about itself
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ClassifierError(
            f"{path}: not a usable TorchScript file: {' '.join(str(error).split())[:500]}; save it again, without "
            "torch.jit.optimize_for_inference"
        ) from error
    return module


def _kind(path: Path) -> str | None:
    if path.is_dir():
        holds = {"saved model": "saved_model.pb", "transformers": "config.json"}
        return next((kind for kind, name in holds.items() if (path / name).exists()), None)
    if not path.is_file():
        raise ClassifierError(f"{path}: a pipe or a device, not a file")  # reading it may never end
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    signs = {
        "empty": not start,
        "pointer": start.startswith(b"version https://git-lfs"),
        "page": start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")),
        "hdf5": start.startswith(b"\x89HDF"),
        "tflite": start[4:8] == b"TFL3",
        "weights": _is_safetensors(start),
        "pickle": start[:1] == b"\x80" and b"\x02" <= start[1:2] <= b"\x05",
        "onnx": _is_onnx(start) or path.suffix.lower() in (".onnx", ".ort"),
    }
    # Old pickles, and what joblib compresses, begin in many ways.
    last = "pickle" if path.suffix.lower() in _PICKLES else None
    return next((kind for kind, found in signs.items() if found), last)


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()} | set(archive.namelist())
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ClassifierError(f"{path}: damaged or not complete: {error}; fetch it again") from error
    if unpacked > path.stat().st_size + _MOST_COMPRESSED:
        raise ClassifierError(
            f"{path}: it would take {unpacked} bytes of memory, far more than the {path.stat().st_size} of the file; "
            "PyTorch compresses little, so this looks like an attack"
        )
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "exported"
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" in names:
        return "pickle"
    return "keras" if {"config.json", "model.weights.h5"} <= names else None


def _is_onnx(start: bytes) -> bool:
    """Whether it begins with the version of the format, a small number, and another field of an ONNX model."""
    return start[:1] == b"\x08" and 3 <= start[1] <= 32 and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42")


def _is_safetensors(start: bytes) -> bool:
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and length < 2**27 and b'"' in start[9:16]


def _pickled_class(path: Path) -> str:
    """Which class a file of ``torch.save`` holds, read from the instructions of the pickle without following them."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            steps = pickletools.genops(archive.read(name))
            first = next(str(argument) for step, argument, _ in steps if step.name in ("GLOBAL", "EMPTY_DICT"))
    except Exception:  # it is refused anyway
        return "unreadable"
    return "a dictionary, such as weights" if first == "None" else first.replace(" ", ".")
