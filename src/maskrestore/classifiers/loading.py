"""Make a classifier from an object or from a name on the command line."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from maskrestore.classifiers.callable import CallableClassifier
from maskrestore.classifiers.counting import CountingClassifier
from maskrestore.classifiers.module import ModuleClassifier
from maskrestore.classifiers.normalisation import Channelwise
from maskrestore.classifiers.onnx import OnnxClassifier
from maskrestore.errors import ClassifierError, ConfigError
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
) -> Classifier:
    """Load ``path/model.onnx``, or import ``package.module:attribute``.

    spec: in the second form the attribute, which may contain dots, is a ``torch.nn.Module`` instance or a function from
    images to hard labels. Importing it runs the code of the Python module; the working directory is put at the front of
    ``sys.path`` first.
    mean, std: the normalisation of an ONNX model or a module, in units of [0, 1] pixels. None: 0 and 1. A function
    normalises its images itself.
    device: where a module runs; None: where it is. It has no effect on ONNX models, which run on the CPU, or functions.

    Raises ConfigError for an invalid spec or setting, ClassifierError if loading fails, and MissingDependencyError for
    an ONNX file if ONNX Runtime is not installed.
    """
    if spec.lower().endswith(".onnx"):
        return OnnxClassifier(spec, mean=_value_or(mean, 0.0), std=_value_or(std, 1.0))
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError(
            f"expected a path that ends in .onnx or package.module:attribute, got {spec!r}; export weights to ONNX, or "
            "write a Python module that loads them and give the name of its function"
        )
    thing = _attribute(module_name, attribute)
    if isinstance(thing, nn.Module):
        return ModuleClassifier(thing, mean=_value_or(mean, 0.0), std=_value_or(std, 1.0), device=device)
    if mean is not None or std is not None:
        raise ConfigError(
            f"mean and std are for ONNX files and torch modules; {spec} is a {type(thing).__name__}, "
            "which must normalise its images itself; leave them out"
        )
    return as_classifier(thing)


def _value_or(value: Channelwise | None, default: float) -> Channelwise:
    return default if value is None else value


def _attribute(module_name: str, attribute: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        thing: object = importlib.import_module(module_name)
    except Exception as error:  # the user's code may raise anything
        raise ClassifierError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    for name in attribute.split("."):
        if not hasattr(thing, name):
            known = [key for key in dir(thing) if key[0] != "_" and callable(getattr(thing, key, None))]
            raise ClassifierError(f"{module_name!r} has no {attribute!r}; it has: {', '.join(known) or 'nothing'}")
        thing = getattr(thing, name)
    return thing
