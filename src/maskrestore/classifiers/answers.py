"""Check the answers of classifiers: one integer label for each image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskrestore.errors import ClassifierOutputError

__all__ = ["as_tensor", "checked_labels", "hard_labels"]


def hard_labels(answer: object, count: int) -> Tensor:
    """Check the answer of a black box for ``count`` images.

    answer: ``(count,)`` labels of any integer dtype, as a tensor on any device, a NumPy array or a list. Returns
    ``(count,)`` int64 on the CPU. Raises ClassifierOutputError for anything else.
    """
    return _integers(as_tensor(answer), count).to("cpu", torch.int64)


def checked_labels(labels: Tensor, holds_nan: Tensor) -> Tensor:
    """Labels ``(B,)`` on the CPU. holds_nan: bool of any shape. Raises ClassifierOutputError if any logits hold NaN."""
    if holds_nan.any():
        raise ClassifierOutputError(
            "the logits hold NaN or infinite numbers; check the weights, mean and std, or use float32"
        )
    return labels.cpu()


def _integers(labels: Tensor, count: int) -> Tensor:
    shape = tuple(labels.shape)
    if shape != (count,):
        raise ClassifierOutputError(f"{_found(count, labels)}; {_shape_hint(shape, count)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ClassifierOutputError(f"{_found(count, labels)}; {_type_hint(labels)}")
    return labels


def as_tensor(answer: object) -> Tensor:
    """Numbers of any kind as a tensor. Raises ClassifierOutputError for anything else."""
    if isinstance(answer, Tensor):
        if answer.layout != torch.strided or answer.is_quantized or answer.is_meta:
            raise ClassifierOutputError(f"expected a plain tensor of numbers, got {answer.dtype} in {answer.layout}")
        if answer.dtype != torch.uint64:
            return answer.detach()
        answer = answer.cpu().numpy()
    try:
        array = np.asarray(answer)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ClassifierOutputError(f"expected labels, got a {type(answer).__name__}: {error}") from error
    if isinstance(answer, list | tuple) and any(isinstance(one, int) and not -(2**63) <= one < 2**63 for one in answer):
        raise ClassifierOutputError("expected labels below 2^63, got larger numbers")  # NumPy would make floats of them
    if array.dtype.kind not in "biufc":
        hint = "; map class names to their indices" if array.dtype.kind in "US" else ""
        raise ClassifierOutputError(f"expected integer labels, got a {type(answer).__name__} of {array.dtype}{hint}")
    if array.dtype.kind in "iu":
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise ClassifierOutputError(f"expected labels below 2^63, got {array.max()}; -1 as an unsigned number?")
        array = array.astype(np.int64)
    elif array.dtype.kind in "fc":  # torch knows neither the other order of bytes nor long doubles
        small = array.dtype.itemsize <= (8 if array.dtype.kind == "f" else 16)
        array = array.astype(array.dtype.newbyteorder("=") if small else "f8" if array.dtype.kind == "f" else "c16")
    return torch.tensor(array)


def _found(count: int, labels: Tensor) -> str:
    return (
        f"expected one integer label for each of {count} images, shape ({count},); "
        f"got {labels.dtype} of shape {tuple(labels.shape)}"
    )


def _type_hint(labels: Tensor) -> str:
    are_whole = labels.dtype == torch.bool or (labels.is_floating_point() and bool((labels == labels.round()).all()))
    if are_whole:
        return "return integers: labels.long()"
    return "these look like scores of a class: return the class itself, e.g. (scores > 0.5).long()"


def _shape_hint(shape: tuple[int, ...], count: int) -> str:
    if shape == (count, 1):
        return "drop the last axis: labels.squeeze(1)"
    if len(shape) == 2 and shape[0] == count:
        return "these look like logits: wrap the module with ModuleClassifier or return logits.argmax(dim=1)"
    if len(shape) == 1:
        return "answer all images of the batch, in their order"
    return "return one label per image"
