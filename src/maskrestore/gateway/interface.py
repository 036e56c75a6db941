"""What the clients of a model send and get: the same as without a gateway, in the Open Inference Protocol's words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from maskrestore.classifiers import HttpClassifier, ModuleClassifier, OnnxClassifier
from maskrestore.classifiers.normalisation import Normalisation
from maskrestore.classifiers.onnx_inputs import FLOATS, INTEGERS, OnnxInput
from maskrestore.classifiers.open_inference import datatype_of
from maskrestore.defense.doubt import ABSTAINED, DoubtPolicy
from maskrestore.errors import ClassifierError, ConfigError
from maskrestore.gateway.config import ModelConfig
from maskrestore.runtime.environment import own_version
from maskrestore.types import Classifier

__all__ = ["NO_NAME", "Interface", "interface_of"]

_MOST_CLASSES = 2**20
NO_NAME = ""
"""Of a picture that is not answered, where classes have names."""
Answer = Literal["labels", "names", "one-hot", "upstream"]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A model as its clients see it."""

    name: str
    input: OnnxInput
    datatype: str
    """Of the input."""
    normalise: Normalisation
    """What clients did to their pixels."""
    output: str
    answer: Answer
    """``labels``: a number for each picture. ``names``: a text. ``one-hot``: a row of scores. ``upstream``: what
    the model itself answers about the purified picture."""
    answer_type: str
    """Datatype of the output."""
    answer_shape: tuple[int, ...]
    """Axes of the output behind that of the pictures."""
    declared: Mapping[str, Any]
    """The upstream's own metadata, if it has any."""
    on_doubt: DoubtPolicy = "answer"
    """What clients get for a picture whose answer is in doubt."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the model for clients."""
        outputs = [{"name": self.output, "datatype": self.answer_type, "shape": [-1, *self.answer_shape]}]
        if self.answer == "upstream" and self.declared.get("outputs"):
            outputs = list(self.declared["outputs"])
        inputs = [{"name": self.input.name, "datatype": self.datatype, "shape": self._input_shape()}]
        return {
            "name": self.name,
            "versions": versions if isinstance(versions := self.declared.get("versions"), list) else [],
            "platform": str(self.declared.get("platform") or "maskrestore"),
            "inputs": list(self.declared.get("inputs") or inputs),
            "outputs": outputs,
            "parameters": {
                "shielded_by": f"maskrestore {own_version()}", "scores": self.answer, "on_doubt": self.on_doubt,
            },
        }  # fmt: skip

    def can_abstain(self, names: Sequence[str] | None) -> bool:
        """Whether the output can say that a picture is not answered: by -1 among labels, by an empty text among names.

        Among scores nothing does: whoever takes the largest of them finds a class in any numbers. names: of the
        classes, as far as they are known.
        """
        if self.answer == "names":
            return NO_NAME not in (names or ())
        return self.answer == "labels" and self.answer_type.startswith("INT")

    def encode(self, labels: Sequence[int], names: Sequence[str] | None) -> np.ndarray[Any, Any]:
        """The output for labels: ``(B, *answer_shape)``. Not for the answer ``upstream``.

        labels: also ABSTAINED, where :meth:`can_abstain` allows it. names: of the classes. Raises ConfigError for a
        label that is no place among the scores, or has no name.
        """
        count = len(labels)
        if self.answer == "names":
            texts = np.array([*(_named(label, names) for label in labels), None], dtype=object)[:-1]
            return texts.reshape(count, *self.answer_shape)
        dtype = np.dtype({"BOOL": "bool"}.get(self.answer_type, self.answer_type.lower().replace("fp", "float")))
        if self.answer == "labels":
            return np.array(labels).astype(dtype).reshape(count, *self.answer_shape)
        width = math.prod(self.answer_shape)
        far = [label for label in labels if not 0 <= label < width]
        if far:
            raise ConfigError(f"the model answered {far[0]}, and its scores have {width} places; is class_count right?")
        rows: np.ndarray[Any, Any] = np.zeros((count, width), dtype)
        rows[np.arange(count), labels] = 1
        return rows.reshape(count, *self.answer_shape)

    def _input_shape(self) -> list[int]:
        taken, (height, width) = self.input, self.input.size or (-1, -1)
        channels = taken.channels or -1
        layout = taken.layouts[0]
        if layout in ("flat", "flat-hwc"):
            row = height * width * channels if min(height, width, channels) > 0 else -1
            return [-1, row]
        picture = [height, width, channels] if layout == "hwc" else [channels, height, width]
        picture = picture if taken.has_channels else [height, width]
        return [-1, *picture] if taken.has_batch else picture


def interface_of(name: str, classifier: Classifier, config: ModelConfig) -> Interface:
    """What the clients of a model send and get.

    classifier: of ``config``. Raises ConfigError if something is unclear that the configuration must say, and
    ClassifierError for metadata that cannot be.
    """
    declared: Mapping[str, Any] = {}
    if isinstance(classifier, HttpClassifier) and classifier.served is not None:
        declared, served = classifier.metadata, classifier.served
        taken, datatype, output = served.input, served.datatype, served.output or "output-0"
        _check_metadata(declared, config.classifier)
        entry = next((one for one in declared.get("outputs") or [] if one.get("name") == output), None)
        answer_type = entry["datatype"] if entry else "FP32"
        shape = [int(axis) for axis in entry["shape"]] if entry else [-1, -1]
    elif isinstance(classifier, OnnxClassifier):
        taken, output = classifier.taken, classifier.output
        datatype = datatype_of(taken.kind)
        kind, axes = classifier.declared_answer
        answer_type = datatype_of(kind) if kind.startswith("tensor(") else "INT64"
        shape = [axis if isinstance(axis, int) else -1 for axis in axes] or [-1]
    else:
        taken, datatype = _plain_input(classifier, config), "FP32"
        scores = (config.class_count is not None and config.scores == "one-hot") or config.scores == "upstream"
        output, answer_type, shape = ("scores", "FP32", [-1, -1]) if scores else ("label", "INT64", [-1])
    if len(taken.layouts) > 1:
        raise ConfigError(f"{name}: the channels may be the first or the last axis; say which with layout = chw or hwc")
    answer, answer_type, trailing = _answer(name, classifier, config, answer_type, shape[1:])
    normalise = getattr(classifier, "normalise", None) or Normalisation.of(
        config.mean or 0.0, config.std or 1.0, config.pixel_range or (0.0, 1.0), config.channel_order or "rgb"
    )
    return Interface(
        name=name, input=taken, datatype=datatype, normalise=normalise, output=output, answer=answer,
        answer_type=answer_type, answer_shape=trailing, declared=declared, on_doubt=config.on_doubt,
    )  # fmt: skip


def _answer(
    name: str, classifier: Classifier, config: ModelConfig, datatype: str, trailing: list[int]
) -> tuple[Answer, str, tuple[int, ...]]:
    """How labels are told: the kind of answer, its datatype, and its axes behind that of the pictures."""
    if config.scores == "upstream":
        if not _has_scores(classifier):
            raise ConfigError(
                f"{name}: there are no scores to hand on: functions and addresses of other protocols answer with "
                "labels only; use scores = one-hot or labels (--scores)"
            )
        if isinstance(classifier, ModuleClassifier) and config.class_count is not None:
            trailing = [config.class_count]
        return "upstream", datatype, tuple(trailing)
    if datatype == "BYTES":
        return "names", "BYTES", tuple(1 for _ in trailing)
    if not datatype.startswith("FP"):
        return "labels", datatype, tuple(1 for _ in trailing)
    if config.scores == "labels":
        return "labels", "INT64", ()
    if config.threshold is not None:  # one score: 0 or 1
        return "labels", datatype, tuple(1 for _ in trailing)
    free = [place for place, axis in enumerate(trailing) if axis != 1]
    width = config.class_count or (len(config.classes) if config.classes else None)
    known = [axis for axis in trailing if axis > 1]
    if known and width not in (None, known[0]):
        raise ConfigError(f"{name}: the model has {known[0]} scores, the configuration says {width} classes")
    width = known[0] if known else width
    if width is not None and width > _MOST_CLASSES:
        raise ClassifierError(f"{name}: the model says that it has {width} scores; expected at most {_MOST_CLASSES}")
    if width is None:
        raise ConfigError(
            f"{name}: the model does not say how many scores it answers with; say class_count (--class-count), or "
            "answer with labels: scores = labels (--scores labels)"
        )
    axes = [1] * max(1, len(trailing))
    axes[free[0] if free else 0] = width
    return "one-hot", datatype, tuple(axes)


def _named(label: int, names: Sequence[str] | None) -> str:
    if label == ABSTAINED:
        return NO_NAME
    if names is None or not 0 <= label < len(names):
        raise ConfigError(f"the label {label} has no name; list the classes of the model")
    return names[label]


def _has_scores(classifier: Classifier) -> bool:
    """Whether a model has an answer of its own that can be handed on."""
    if isinstance(classifier, OnnxClassifier):
        return classifier.declared_answer[0] in {*FLOATS, *INTEGERS}
    return isinstance(classifier, ModuleClassifier) or (
        isinstance(classifier, HttpClassifier) and classifier.served is not None
    )


def _check_metadata(declared: Mapping[str, Any], address: str) -> None:
    """Raise ClassifierError for what no answer to a client can hold."""
    try:
        json.dumps(declared, allow_nan=False)
    except ValueError:
        raise ClassifierError(f"{address}: the metadata of the model hold a number that is none in JSON") from None


def _plain_input(classifier: Classifier, config: ModelConfig) -> OnnxInput:
    """Of a model that does not say what it takes."""
    size = getattr(classifier, "input_size", None)
    return OnnxInput(
        name="input-0", kind="tensor(float)", dtype=np.dtype("float32"), layouts=(config.layout or "chw",),
        has_batch=True, has_channels=True, batch=None, channels=None, size=size,
    )  # fmt: skip
