"""Look at a classifier: what it takes and answers, and what looks wrong, without any labelled image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.classifiers.callable import CallableClassifier
from maskrestore.classifiers.module import ModuleClassifier
from maskrestore.classifiers.normalisation import Normalisation
from maskrestore.classifiers.onnx import OnnxClassifier
from maskrestore.errors import ClassifierError, InvalidImageError
from maskrestore.runtime.words import counted
from maskrestore.types import Classifier, StreamingClassifier

__all__ = ["Inspection", "inspect_classifier", "rendered_pictures"]

_PICTURES, _FEW_PICTURES = 24, 6
"""Rendered pictures that are asked about: of a model here, and behind an address."""

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CANDIDATES: dict[str, tuple[str, Callable[[], Normalisation]]] = {
    "pixels from 0 to 1": ("--pixel-range 0..1", lambda: Normalisation.of(0.0, 1.0)),
    "pixels from -1 to 1": ("--pixel-range=-1..1", lambda: Normalisation.of(0.0, 1.0, (-1, 1))),
    "pixels from 0 to 255": ("--pixel-range 0..255", lambda: Normalisation.of(0.0, 1.0, (0, 255))),
    "the mean and std of ImageNet": (
        "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        lambda: Normalisation.of(IMAGENET["mean"], IMAGENET["std"]),
    ),
}
"""Usual normalisations: their names, the options that choose them, and how to make them."""

_FEW, _MANY = 2, 4
"""A normalisation looks wrong if its answers are at most so many classes where another one gives at least so many, none
of them to more than half of the pictures: classifiers of a few small pictures answer little else in any case."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was understood of a classifier, and what it answered."""

    understood: dict[str, str]
    """What it takes and answers, in words: "input", "pixels", "answer", ..."""
    label: int
    """Its label of the picture."""
    name: str | None
    """The name of that label, if it is known."""
    classes_named: bool
    """Whether the classifier answers with names of classes, which have a number each."""
    pictures: int
    """How many rendered pictures it was asked about."""
    classes_answered: int
    """How many different labels the rendered pictures got."""
    warnings: list[str] = field(default_factory=list)
    """What looks wrong."""


def inspect_classifier(classifier: Classifier, picture: Tensor, names: Sequence[str] | None = None) -> Inspection:
    """Ask a classifier about a picture and about rendered ones of its size, and judge its answers.

    picture: ``(1, C, H, W)`` in [0, 1]. names: of the classes. Sends about 100 queries, 13 to an address, and more to a
    model whose normalisation looks wrong.

    Raises what the classifier raises for the picture.
    """
    label = int(classifier(picture))
    names = names or getattr(classifier, "classes", None)
    is_far = isinstance(classifier, StreamingClassifier)  # its queries may cost money
    pictures = rendered_pictures(picture.shape[1], *picture.shape[2:], count=_FEW_PICTURES if is_far else _PICTURES)
    warned: list[str] = []
    first = classifier(pictures)
    if not torch.equal(classifier(pictures), first):
        warned.append(
            "it answers differently when it is asked again about the same pictures: decisions cannot be replayed, and "
            "labels that flip by chance look like traces of a trigger; is there dropout or an augmentation?"
        )
    elif not is_far:
        alone = torch.cat([classifier(one[None]) for one in pictures])
        if not torch.equal(alone, first):
            warned.append(
                f"{int((alone != first).sum())} of {len(first)} pictures get another label alone than in a batch; is "
                "batch normalisation in training mode? --micro-batch 1 asks about each alone"
            )
    answered = len(first.unique())
    if answered == 1:
        warned.append(f"all {len(first)} rendered pictures, however different, get the label {int(first[0])}")
    warned += _better_normalisations(classifier, pictures, answered)
    if names is not None and not 0 <= label < len(names):
        warned.append(f"the label {label} is none of the {len(names)} names of classes")
    return Inspection(
        understood=_understood(classifier, names),
        label=label,
        name=names[label] if names is not None and 0 <= label < len(names) else None,
        classes_named=getattr(classifier, "classes", None) is not None,
        pictures=len(pictures),
        classes_answered=answered,
        warnings=warned,
    )


def rendered_pictures(channels: int, height: int, width: int, *, count: int = _PICTURES) -> Tensor:
    """``(count, C, H, W)`` in [0, 1]: colours, gradients, stripes, discs and smooth noise, the same on each call."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    pictures = []
    for number in range(count):
        low, high = torch.rand(2, channels, 1, 1, generator=generator)
        x, y, angle, width_of = torch.rand(4, generator=generator).tolist()
        shape = (
            torch.full_like(rows, x),
            (rows * x + columns * (1 - x) + 1) / 2,
            ((rows * angle + columns * (1 - angle)) * (3 + 12 * width_of)).sin() > 0,
            ((rows - x + 0.5) ** 2 + (columns - y + 0.5) ** 2) < 0.1 + 0.5 * width_of,
            F.interpolate(torch.rand(1, 1, 5, 5, generator=generator), (height, width), mode="bicubic")[0, 0],
            torch.rand(height, width, generator=generator),
        )[number % 6].float()
        pictures.append((low + (high - low) * shape).clamp(0, 1))
    return torch.stack(pictures)


def _better_normalisations(classifier: Classifier, pictures: Tensor, answered: int) -> list[str]:
    """A warning if the answers hardly vary, and do with another usual normalisation.

    Labels alone cannot tell which normalisation is right: a wrong one often drives a network into a few classes.
    """
    if answered > _FEW or not isinstance(classifier, ModuleClassifier | OnnxClassifier):
        return []
    if isinstance(classifier, OnnxClassifier) and classifier.takes_whole_numbers:
        return []
    own, found = classifier.normalise, []
    try:
        for words, (options, make) in CANDIDATES.items():
            other = make()
            if (other.mean, other.std, other.pixel_range) == (own.mean, own.std, own.pixel_range):
                continue
            classifier.normalise = other
            try:
                counts = classifier(pictures).unique(return_counts=True)[1]
            except (ClassifierError, InvalidImageError):
                continue  # another number of channels, for example
            if len(counts) >= _MANY and int(counts.max()) <= len(pictures) / 2:
                found.append(f"{words}: {len(counts)} labels ({options})")
    finally:
        classifier.normalise = own
    if not found:
        return []
    return [
        f"the normalisation may not fit: {len(pictures)} rendered pictures get {counted(answered, 'label')}, and with "
        + "; with ".join(found)
        + "; some sound models answer like that, too: which one is right, the model's author knows"
    ]


def _understood(classifier: Classifier, names: Sequence[str] | None) -> dict[str, str]:
    if isinstance(classifier, CallableClassifier):
        name = getattr(classifier.function, "__qualname__", type(classifier.function).__name__)
        return {"model": f"function {name}", "input": "images (B, C, H, W), float32 in [0, 1]", "answer": "labels (B,)"}
    if not isinstance(classifier, ModuleClassifier | OnnxClassifier):
        return {"model": type(classifier).__name__}
    size, own, found = classifier.input_size, classifier.normalise, classifier.words
    found["size"] = "as the images are" if size is None else f"{size[0]} x {size[1]}, images are resized to that"
    low, high = own.pixel_range
    found["pixels"] = f"{low:g} to {high:g}, {own.channel_order}"
    if set(own.mean) != {0.0} or set(own.std) != {1.0}:
        found["normalised"] = f"mean {_listed(own.mean)}, std {_listed(own.std)}"
    if names is not None:
        found["classes"] = f"{len(names)}: {', '.join(names[:5])}" + (", ..." if len(names) > 5 else "")
    found["micro-batch"] = f"{counted(classifier.micro_batch, 'image')} at a time"
    return found


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
