"""Make a classifier from an object or from a name on the command line."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskrestore.classifiers.callable import CallableClassifier
from maskrestore.classifiers.counting import CountingClassifier
from maskrestore.classifiers.http import HttpClassifier
from maskrestore.classifiers.model_files import model_kind
from maskrestore.classifiers.module import ModuleClassifier
from maskrestore.classifiers.normalisation import ChannelOrder, Channelwise, Layout
from maskrestore.classifiers.onnx import OnnxClassifier
from maskrestore.errors import ClassifierError, ConfigError, MissingDependencyError
from maskrestore.runtime.precision import Precision
from maskrestore.types import Classifier, StreamingClassifier

__all__ = ["as_classifier", "load_classifier"]

_ADAPTERS = (CallableClassifier, CountingClassifier, ModuleClassifier, OnnxClassifier)


def as_classifier(thing: object) -> Classifier:
    """Wrap a ``torch.nn.Module`` or a callable in its adapter; an adapter or a StreamingClassifier stays as it is.

    A module gets images in [0, 1] without normalisation; for a mean and std use ``ModuleClassifier``. Raises
    ClassifierError for a class, and for anything else that cannot be called.
    """
    if isinstance(thing, _ADAPTERS):
        return thing
    if isinstance(thing, nn.Module):
        return ModuleClassifier(thing)
    if inspect.isclass(thing):
        raise ClassifierError(
            f"expected a torch.nn.Module or a function, got the class {thing.__name__}; make an instance of it"
        )
    if not callable(thing):
        hint = "; to load a classifier by its name call load_classifier" if isinstance(thing, str) else ""
        raise ClassifierError(f"expected a torch.nn.Module or a function, got a {type(thing).__name__}{hint}")
    return thing if isinstance(thing, StreamingClassifier) else CallableClassifier(thing)


def load_classifier(
    spec: str,
    *,
    mean: Channelwise | None = None,
    std: Channelwise | None = None,
    device: str | torch.device | None = None,
    pixel_range: Sequence[float] | None = None,
    channel_order: ChannelOrder | None = None,
    input_size: int | Sequence[int] | None = None,
    layout: Layout | None = None,
    output: str | None = None,
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    micro_batch: int | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
    http: Mapping[str, Any] | None = None,
) -> Classifier:
    """Load a model file, import ``package.module:attribute``, or ask ``https://host/v2/models/NAME``.

    spec: a file of ONNX, TorchScript or ``torch.export``, told by its content; or a name, whose attribute, which
    may contain dots, is a ``torch.nn.Module`` instance or a function from images to hard labels. Importing it runs the
    code of the Python module; the working directory is put at the front of ``sys.path`` first. Files run no code.
    device: where a model runs; None: where it is, the CPU for files. Functions stay where they are, with a warning, and
    so do ONNX models where ONNX Runtime has no support of the device.

    threads: of :class:`OnnxClassifier` only. precision: of :class:`ModuleClassifier` only.
    http: further settings of :class:`HttpClassifier`, for addresses: headers, body, label, ...

    The others are settings of :class:`OnnxClassifier`, :class:`ModuleClassifier` and :class:`HttpClassifier`. Of a
    function only ``input_size`` can be set; it does the rest itself.

    Raises ConfigError for an invalid spec or setting, and for a name that does not exist; ClassifierError if loading
    fails; and MissingDependencyError for an ONNX file if ONNX Runtime is not installed.
    """
    given = {
        "mean": mean,
        "std": std,
        "pixel_range": pixel_range,
        "channel_order": channel_order,
        "input_size": input_size,
        "layout": layout,
        "output": output,
        "threshold": threshold,
        "classes": classes,
        "micro_batch": micro_batch,
        "threads": threads,
        "precision": precision,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if spec.startswith(("http://", "https://")):
        _refuse(
            settings,
            ("micro_batch", "threads", "precision"),
            "models on this machine; an address gets one picture in a request",
        )
        return HttpClassifier(spec, **settings, **(http or {}))
    if http:
        raise ConfigError(f"{', '.join(http)}: for classifiers behind an address, not for {spec!r}; leave them out")
    path = Path(spec)
    if (spec and path.exists()) or path.suffix.lower() == ".onnx":
        kind = model_kind(path) if path.exists() else "onnx"
        if kind == "onnx":
            _refuse(settings, ("precision",), "torch modules; an ONNX file fixes its own")
            return OnnxClassifier(path, **settings, providers=_providers(device, path))
        _refuse(settings, ("threads",), "ONNX files; a module takes as many as PyTorch has")
        return ModuleClassifier(path, **settings, device=device)
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError(
            f"expected a model file (ONNX, TorchScript or torch.export) or package.module:attribute, got {spec!r}, "
            "which is neither a file nor such a name; for other models, write a Python module that loads them and give "
            "the name of its function"
        )
    thing = _attribute(module_name, attribute)
    if isinstance(thing, nn.Module):
        _refuse(settings, ("threads",), "ONNX files; a module takes as many as PyTorch has")
        return ModuleClassifier(thing, **settings, device=device)
    settings.pop("classes", None)  # a function answers with numbers
    classifier = as_classifier(thing)
    if isinstance(classifier, CallableClassifier) and "input_size" in settings:
        classifier = CallableClassifier(classifier.function, input_size=settings.pop("input_size"))
    if settings:
        raise ConfigError(
            f"{', '.join(settings)}: for model files and torch modules; {spec} is a {type(thing).__name__}, "
            "which must prepare its images and its answers itself; leave them out"
        )
    if device is not None and torch.device(device).type != "cpu":
        warnings.warn(
            f"{spec} is a {type(thing).__name__}: it runs where it puts itself, not on {device}", stacklevel=2
        )
    return classifier


def _refuse(settings: Mapping[str, Any], names: Sequence[str], kinds: str) -> None:
    """Raise ConfigError if one of these settings, which are for other kinds of classifiers, is given."""
    useless = [name for name in names if name in settings]
    if useless:
        raise ConfigError(f"{', '.join(useless)}: for {kinds}; leave it out")


def _providers(device: str | torch.device | None, path: Path) -> tuple[Any, ...]:
    """ONNX Runtime's providers for a device."""
    on_cpu = ("CPUExecutionProvider",)
    if device is None or torch.device(device).type == "cpu":
        return on_cpu
    try:
        import onnxruntime  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", "onnx") from error
    chosen = torch.device(device)
    if chosen.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return (("CUDAExecutionProvider", {"device_id": chosen.index or 0}), *on_cpu)
    warnings.warn(
        f"{path} runs on the CPU: ONNX Runtime has no support of {device} here (for CUDA, the package onnxruntime-gpu "
        "brings it)",
        stacklevel=3,
    )
    return on_cpu


def _attribute(module_name: str, attribute: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        thing: object = importlib.import_module(module_name)
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no Python module {error.name!r} in the working directory or among the installed packages"
            ) from error
        raise ClassifierError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    for name in attribute.split("."):
        if not hasattr(thing, name):
            known = [key for key in dir(thing) if key[0] != "_" and callable(getattr(thing, key, None))]
            raise ConfigError(f"{module_name!r} has no {attribute!r}; it has: {', '.join(known) or 'nothing'}")
        thing = getattr(thing, name)
    return thing
