"""Read files of weights without running code from them, and identify weights by a digest."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from maskrestore.errors import CheckpointError
from maskrestore.runtime.digests import digest

__all__ = ["as_tensors", "read_pickle", "read_safetensors", "weights_digest"]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a PyTorch file that holds a dictionary of tensors and plain containers.

    ``argparse.Namespace`` is allowed too, because training scripts store their options beside the weights. Raises
    CheckpointError for a damaged file, for one that holds something else, and for one that would run code, which is not
    run.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged or a pickle that runs code ({str(error).splitlines()[0]}); "
            "if you trust it, convert it to safetensors"
        ) from error
    except Exception as error:  # for damaged files torch raises RuntimeError, EOFError, KeyError and others
        raise CheckpointError(f"{path} cannot be read, it may be truncated ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def as_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Return ``content``, read from ``path``, as a mapping of names to tensors. Raises CheckpointError if it is not."""
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold a dictionary of tensors, neither at its top nor as 'model'")
    return {str(name): tensor for name, tensor in content.items()}


def weights_digest(network: object) -> str | None:
    """Sixteen hex digits that identify the weights of a ``torch.nn.Module``; None for other objects."""
    if not isinstance(network, nn.Module):
        return None
    parts = []
    for name, value in sorted(network.state_dict().items()):
        parts.append(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # As bytes, because NumPy has no bfloat16.
        parts.append(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest(parts)
