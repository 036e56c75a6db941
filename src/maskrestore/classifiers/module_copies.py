"""Copies of modules of any author, so that what runs is ours and the module itself stays as it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError

__all__ = ["copied", "device_of", "evaluating", "moved", "tensors"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in evaluation mode; each of its parts gets its own mode back."""
    training = [one for one in module.modules() if one.training]
    for one in training:
        one.training = False
    try:
        yield
    finally:
        for one in training:
            one.training = True


def moved(module: nn.Module, **to: Any) -> nn.Module:
    """The module itself after its ``to``."""
    with warnings.catch_warnings(action="ignore"):  # frozen TorchScript has no gradients, and warns of that
        return module.to(**to)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy. Raises whatever its author's objects raise."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of PyTorch about itself
        return copy.deepcopy(module, _computed(module))


def _computed(module: nn.Module) -> dict[int, Any]:
    """Copies of the tensors that its parts computed, which ``deepcopy`` refuses, such as weights that were pruned."""
    attributes = (value for one in module.modules() for value in vars(one).values())
    return {id(one): one.detach().clone() for one in attributes if isinstance(one, Tensor) and not one.is_leaf}


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """All weights of a module."""
    return chain(module.parameters(), module.buffers(), _frozen(module))


def _frozen(module: nn.Module) -> Iterator[Tensor]:
    """The constants in a TorchScript: frozen ones have no parameters."""
    graph: Any = module.graph if isinstance(module, torch.jit.ScriptModule) else None
    for node in () if graph is None else graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.t("value")


def device_of(module: nn.Module) -> torch.device:
    """Where its first tensor is. Raises ConfigError for a module whose weights are nowhere."""
    tensor = next(tensors(module), None)
    if tensor is not None and tensor.is_meta:
        raise ConfigError("the module is on the device meta: it has no weights; load them first")
    return torch.device("cpu") if tensor is None else tensor.device
