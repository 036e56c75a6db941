"""``maskrestore inspect``: what is understood of a classifier, and what looks wrong."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from maskrestore.classifiers.inspection import Inspection, inspect_classifier, rendered_pictures
from maskrestore.cli.classifier_options import (
    MODEL_HELP,
    ClassifierOptions,
    load_from_options,
    with_classifier_options,
)
from maskrestore.cli.options import DeviceOption
from maskrestore.cli.terminal import out, warn
from maskrestore.errors import ConfigError
from maskrestore.imaging.codec import read_image
from maskrestore.reporting import read_class_names
from maskrestore.types import Classifier

__all__ = ["inspect"]

_SIZES = (224, 32, 28)
"""Heights and widths in pixels that are tried where neither the model nor the user says one."""


@with_classifier_options
def inspect(
    spec: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    picture: Annotated[
        Path | None, typer.Argument(metavar="PICTURE", help="A picture to ask about. If not given, a rendered one.")
    ] = None,
    *,
    model: ClassifierOptions,
    device: DeviceOption = "cpu",
    grey: Annotated[bool, typer.Option("--grey", help="For a classifier that expects grey images.")] = False,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line, in the order of the labels.")
    ] = None,
) -> None:
    """Show what is understood of a classifier, ask it about a picture, and warn of what looks wrong.

    Prints its input, size, pixels, normalisation, answer, classes and device; the label of the picture; and
    the lines of Python and the command that use the classifier with these options. Pictures that are rendered
    tell whether it always gives one label, answers differently when asked again or in a batch, and whether
    another usual normalisation gives more varied answers. That takes about 100 queries, 13 to an address. Which
    normalisation is right cannot be told from labels: ask the model's author.

    Examples:

        maskrestore inspect model.onnx stop.png --mean 0.5 --std 0.5

        maskrestore inspect mypackage.models:signs
    """
    names = None if class_names is None else read_class_names(class_names)
    given = None if picture is None else read_image(picture, keep_grey=grey)[None]
    classifier, _ = load_from_options(spec, model, device=device, classes=names)
    image = _rendered(classifier, grey=grey) if given is None else given
    height, width = image.shape[2:]
    found = inspect_classifier(classifier, image, names)
    _show(found, f"{picture or 'a rendered picture'} ({height} x {width})")
    is_grey = grey or getattr(classifier, "channels", None) == 1
    _show_use(spec, model, device=device, grey=is_grey, class_names=class_names, known=found.classes_named)


def _rendered(classifier: Classifier, *, grey: bool) -> Tensor:
    """A picture of a size that the classifier takes."""
    channels = 1 if grey else getattr(classifier, "channels", None) or 3
    known = getattr(classifier, "input_size", None)
    for height, width in [known] if known else [(side, side) for side in _SIZES]:
        picture = rendered_pictures(channels, height, width, count=4)[3:]
        try:
            classifier(picture)
        except ConfigError:
            raise
        except Exception as error:  # whatever a model raises for a size that it does not take
            failed = error
        else:
            return picture
    raise ConfigError(
        f"the classifier fails at a rendered picture ({' '.join(str(failed).split())[:300]}); say its size with "
        "--input-size, or give a picture that it takes"
    )


def _show(found: Inspection, what: str) -> None:
    for name, words in found.understood.items():
        _line(f"{name + ':':<13}{words}")
    named = "" if found.name is None else f" ({found.name})"
    _line(f"{'asked:':<13}{what} gets the label {found.label}{named}")
    several = "different labels" if found.classes_answered > 1 else "label"
    _line(f"{'':<13}{found.pictures} rendered pictures get {found.classes_answered} {several}")
    for warning in found.warnings:
        warn(warning)


def _show_use(
    spec: str, model: ClassifierOptions, *, device: str, grey: bool, class_names: Path | None, known: bool
) -> None:
    settings = model.settings | ({"device": device} if torch.device(device).type != "cpu" else {})
    arguments = "".join(f", {name}={value!r}" for name, value in settings.items())
    if class_names is not None and known:
        arguments += f", classes=open({str(class_names)!r}).read().splitlines()"
    options = [
        part
        for name, value in model.given.items()
        for one in (value if isinstance(value, list | tuple) else [value])
        for part in _option(name, one)
    ]
    options += ["--device", device] if "device" in settings else []
    options += ["--grey"] if grey else []
    options += ["--class-names", str(class_names)] if class_names is not None else []
    command = ["maskrestore", "purify", "FOLDER", "--classifier", spec, *options, "--out", "cleaned"]
    _line("\nIn Python:\n")
    _line(f"    classifier = maskrestore.load_classifier({spec!r}{arguments})")
    _line('    shielded = maskrestore.protect(classifier, key="a secret of yours")')
    _line(f"\nOn the command line:\n\n    {shlex.join(command)}")


def _option(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name}"]
    flag, text = f"--{name.replace('_', '-')}", str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
