"""Read labels from the answers of models: tensors, arrays, lists, dictionaries, names of classes, maps of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.answers import as_tensor
from maskrestore.classifiers.class_names import unknown_class
from maskrestore.errors import ClassifierOutputError, ConfigError

__all__ = ["ModelAnswers"]


class ModelAnswers:
    """Reads one label for each image from what a model answers.

    An answer is, or holds, one of

    - integer or boolean labels ``(B,)``, names of classes ``(B,)``;
    - logits or probabilities ``(B, K)`` with ``K >= 2``, or one score ``(B,)`` and a ``threshold``;
    - a sequence of ``B`` maps from a class to its score.

    It may be a tensor, a NumPy array or a list, with further axes of size 1. What has several parts, such as a
    dictionary, a tuple or a dataclass, is read at ``output``, else at its only part, else at ``logits``.
    """

    def __init__(
        self,
        output: str | int | None = None,
        threshold: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Describe the answers.

        output: key, attribute or index of the part that holds them. Digits are an index, too.
        threshold: for models with one score: the label is 1 above it, else 0.
        classes: names of the classes, in the order of their labels. None: those of the first maps that name them.

        Raises ConfigError for a name that occurs twice, and for a threshold that is not a number.
        """
        if threshold is not None and not np.isfinite(threshold):
            raise ConfigError(f"threshold must be a number, got {threshold}")
        if classes is not None and len(set(classes)) < len(classes):
            twice = sorted({name for name in classes if list(classes).count(name) > 1})
            raise ConfigError(f"each class needs a name of its own, got more than once: {', '.join(twice)}")
        self.output = output
        self.threshold = threshold
        self.classes: tuple[str, ...] | None = None if classes is None else tuple(classes)
        """Names of the classes, in the order of their labels, if they are known."""
        self._width: int | None = None  # the number of classes in the first scores

    def __call__(self, answer: object, count: int) -> tuple[Tensor, Tensor]:
        """Labels of ``count`` images, and whether their scores hold NaN or no best one among infinite ones.

        Returns ``(count,)`` int64 and ``()`` bool, both on the device of the answer: reading a value from a GPU would
        make the host wait. They do not share memory with the answer, because a module may reuse its output buffer.

        Raises ClassifierOutputError for an answer of another form, or with another number of classes than before.
        """
        if isinstance(answer, Mapping) and answer and all(isinstance(score, int | float) for score in answer.values()):
            answer = [answer]  # the scores of a single image
        part = _part(answer, self.output, count)
        if _is_listed(part, Mapping):
            return self._of_maps(list(part), count)  # type: ignore[call-overload]
        if isinstance(part, np.ndarray) and part.dtype.kind in "OUS":
            part = part.reshape(-1).tolist()
        if _is_listed(part, str | bytes):
            return self._of_names(list(part), count)  # type: ignore[call-overload]
        return self._of_tensor(as_tensor(part), count)

    def scores(self, answer: object, count: int) -> Tensor:
        """The scores themselves, ``(count, ...)`` as the model answers them; for those who hand them on.

        Raises ClassifierOutputError if there are none.
        """
        part = _part(answer, self.output, count)
        if _is_listed(part, Mapping | str | bytes):
            raise ClassifierOutputError(f"expected scores in a tensor, got {_described(part)}")
        found = as_tensor(part)
        if not found.is_floating_point() or found.ndim < 1 or len(found) != count:
            raise ClassifierOutputError(f"expected scores of {count} images, got {_described(found)}")
        return found.clone()

    def _of_tensor(self, found: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values = _without_empty_axes(found, count)
        kind = f"{found.dtype} of shape {tuple(found.shape)}"
        if values.ndim not in (1, 2) or len(values) != count or not values.numel() or found.is_complex():
            raise ClassifierOutputError(
                f"expected labels ({count},) or scores of shape ({count}, K) for {count} images, got {kind}"
                f"{_shape_hint(values, count)}"
            )
        if values.ndim == 2 and not values.is_floating_point():
            raise ClassifierOutputError(
                f"expected logits or probabilities of shape ({count}, K), got {kind}; integers in rows are no scores, "
                "but the indices of the best classes, for example; name another output"
            )
        if values.ndim == 2:
            self._check_width(values.shape[1], kind)
            return values.argmax(dim=1), _unusable(values)
        if values.is_floating_point():
            return self._cut(values, kind), values.isnan().any()
        return values.to(torch.int64, copy=True), torch.zeros((), dtype=torch.bool, device=values.device)

    def _cut(self, scores: Tensor, kind: str) -> Tensor:
        if self.threshold is None:
            raise ClassifierOutputError(
                f"the model answers with one score for each image ({kind}), which may be a probability or a logit; say "
                "above which score the label is 1: threshold=0.5 for probabilities, 0 for logits (--threshold 0.5); if "
                "these are labels, return integers"
            )
        return (scores > self.threshold).long()

    def _of_maps(self, maps: list[Mapping[object, float]], count: int) -> tuple[Tensor, Tensor]:
        """Scores by class; classes that are numbers are labels themselves."""
        if len(maps) != count:
            raise ClassifierOutputError(f"expected a map of scores for each of {count} images, got {len(maps)} maps")
        keys = set(maps[0])
        if len(keys) < 2 or any(set(one) != keys for one in maps):
            raise ClassifierOutputError(
                f"expected maps with the scores of the same two classes or more, got {[len(one) for one in maps][:8]}"
            )
        if all(isinstance(key, int | np.integer) for key in keys):
            order: list[object] = sorted(keys)  # type: ignore[type-var]
            numbers = as_tensor(order)
        elif all(isinstance(key, str | bytes) for key in keys):
            if self.classes is None:
                self.classes = tuple(sorted(map(_text, keys)))  # type: ignore[arg-type]
            order = sorted(keys, key=_text)  # type: ignore[arg-type]
            numbers = self._numbers([_text(key) for key in order])  # type: ignore[arg-type]
        else:
            raise ClassifierOutputError(f"expected classes that are names or whole numbers, got {list(keys)[:3]}")
        try:
            scores = torch.tensor([[float(one[key]) for key in order] for one in maps], dtype=torch.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ClassifierOutputError(f"expected maps with a number for each class: {error}") from error
        self._check_width(len(order), f"maps of {len(order)} classes")
        return numbers[scores.argmax(dim=1)], _unusable(scores)

    def _of_names(self, names: list[str | bytes], count: int) -> tuple[Tensor, Tensor]:
        if len(names) != count:
            raise ClassifierOutputError(f"expected the name of a class for each of {count} images, got {len(names)}")
        return self._numbers(list(map(_text, names))), torch.zeros((), dtype=torch.bool)

    def _numbers(self, names: list[str]) -> Tensor:
        if self.classes is None:
            raise ClassifierOutputError(
                f"the model answers with names of classes, such as {names[0][:60]!r}, and it is not known which names "
                "there are; list them in the order of their labels: classes=[...] (--class-names FILE)"
            )
        table = {name: number for number, name in enumerate(self.classes)}
        unknown = next((name for name in names if name not in table), None)
        if unknown is not None:
            raise unknown_class(unknown, self.classes)
        return torch.tensor([table[name] for name in names])

    def _check_width(self, width: int, kind: str) -> None:
        if self.threshold is not None:
            raise ClassifierOutputError(
                f"a threshold is for models with one score for each image; this one answers with {kind}; leave it out"
            )
        self._width = self._width or width
        if width != self._width:
            raise ClassifierOutputError(
                f"the model answered with {self._width} classes before, and now with {kind}; a classifier has one "
                "number of classes"
            )


def _part(answer: object, output: str | int | None, count: int) -> object:
    """The part of an answer that holds labels or scores."""
    parts = _parts(answer, count)
    if parts is None:
        if output is not None and hasattr(answer, str(output)) and not isinstance(answer, Tensor | np.ndarray):
            return getattr(answer, str(output))
        if output not in (None, 0, "0"):
            raise ClassifierOutputError(f"the model answers with one {type(answer).__name__}, not with parts: leave "
                                        f"output={output!r} out")  # fmt: skip
        return getattr(answer, "logits", answer)
    for name, part in parts.items():
        if output is not None and str(output) == name:
            return part
    listed = "; ".join(f"{name}: {_described(part)}" for name, part in parts.items())
    if output is not None:
        if str(output).isdecimal() and int(output) < len(parts):
            return list(parts.values())[int(output)]
        raise ClassifierOutputError(f"the model's answer has no part {output!r}; it has: {listed}")
    if "logits" in parts:
        return parts["logits"]
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise ClassifierOutputError(
        f"expected labels or scores, got a {type(answer).__name__} with {len(parts)} parts ({listed}); name the one "
        "that holds the scores of the classes, or the labels, with output=NAME (--output NAME)"
    )


def _parts(answer: object, count: int) -> dict[str, object] | None:
    """The parts of an answer by name; None if it has none."""
    if isinstance(answer, Mapping):
        return {str(key): value for key, value in answer.items()}
    if isinstance(answer, tuple) and hasattr(answer, "_fields"):
        return dict(zip(answer._fields, answer, strict=True))
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        found = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
        return {name: value for name, value in found.items() if value is not None}
    if isinstance(answer, list | tuple) and answer and all(isinstance(one, Tensor | np.ndarray) for one in answer):
        shapes = {tuple(one.shape) for one in answer}
        is_of_rows = isinstance(answer, list) and len(answer) == count and len(shapes) == 1 and answer[0].ndim == 1
        if shapes == {()} or is_of_rows:
            return None  # a list of numbers, or of a row for each image
        return {str(index): one for index, one in enumerate(answer)}
    return None


def _is_listed(part: object, kind: object) -> bool:
    return isinstance(part, list | tuple) and bool(part) and all(isinstance(one, kind) for one in part)  # type: ignore[arg-type]


def _without_empty_axes(values: Tensor, count: int) -> Tensor:
    """``(B, K, 1, 1)`` -> ``(B, K)``, ``(B, 1)`` -> ``(B,)``; of one image, also ``(K,)`` and ``()``."""
    if count == 1 and values.ndim == 0:
        return values[None]
    if values.ndim > 1:
        return values.reshape(len(values), *(axis for axis in values.shape[1:] if axis != 1))
    if count == 1 and values.ndim == 1 and len(values) > 1 and values.is_floating_point():
        return values[None]
    return values


def _unusable(scores: Tensor) -> Tensor:
    """Whether ``(B, K)`` scores hold NaN, or several that are infinite where one should be the best; ``()`` bool."""
    best = scores.amax(dim=1, keepdim=True)
    return scores.isnan().any() | ((scores == best) & best.isinf()).sum(dim=1).gt(1).any()


def _shape_hint(values: Tensor, count: int) -> str:
    if values.ndim == 4 and len(values) == count:
        return "; this looks like a score for each place, as segmentation models answer; this is for classifiers"
    if values.ndim == 3 and len(values) == count:
        return "; this looks like a list of finds, as detectors answer; this is for classifiers"
    return ""


def _described(part: object) -> str:
    if isinstance(part, Tensor | np.ndarray):
        return f"{part.dtype} of shape {tuple(part.shape)}"
    return type(part).__name__


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode(errors="replace")
