"""Options of the classifier, for all commands that take one, and the classifier that they mean."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from maskrestore.classifiers import load_classifier
from maskrestore.classifiers.normalisation import ChannelOrder, Layout
from maskrestore.cli.options import parse_channels
from maskrestore.cli.terminal import say
from maskrestore.errors import ConfigError
from maskrestore.jobs.identity import classifier_identity
from maskrestore.runtime.precision import Precision
from maskrestore.types import Classifier

__all__ = ["MODEL_HELP", "ClassifierOption", "ClassifierOptions", "load_from_options", "with_classifier_options"]

MODEL_HELP = (
    "The classifier: a file of ONNX, TorchScript or torch.export, `package.module:name` of a torch.nn.Module or of a "
    "function from images (B, C, H, W) in [0, 1] to labels (B,), or an address such as `https://host/v2/models/NAME`."
)
ClassifierOption = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)]


_TRANSPORT = ("concurrency", "timeout", "connect_timeout", "most_bytes")
"""Options of addresses that no label depends on."""


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """What the command line says about a classifier, as it was typed."""

    mean: Annotated[
        str | None,
        typer.Option(help="Mean that the model's images are normalised with, e.g. `0.485,0.456,0.406`."),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation that they are normalised with, e.g. `0.229,0.224,0.225`."),
    ] = None
    pixel_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH",
            help="What black and white are for the model, e.g. `0..255` or `-1..1`. If not given, what the file says, "
            "`0..255` for a model that takes uint8, else `0..1`.",
        ),
    ] = None
    channel_order: Annotated[
        ChannelOrder | None,
        typer.Option(help="Order of the colours that the model takes. If not given, what the file says, else `rgb`."),
    ] = None
    input_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size that images are resized to for the model, e.g. `224`, or height and width: `224x160`.",
        ),
    ] = None
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="Order of the model's axes: channels first or last, or a row of numbers, channel after channel "
            "(`flat`) or pixel after pixel (`flat-hwc`). If not given, what the file says."
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The part of the model's answer that holds scores or labels, by its name or index."
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            help="For a model with one score for each image: the label is 1 above it, else 0. `0.5` suits "
            "probabilities, `0` logits."
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images that the model gets at a time. If not given, 8 on a CPU and 32 on a GPU."),
    ] = None
    model_threads: Annotated[
        int | None, typer.Option(min=1, help="For ONNX files: threads within an operator, by default 1.")
    ] = None
    model_precision: Annotated[
        Precision | None,
        typer.Option(help="For torch modules: number format of the model, by default `float32`."),
    ] = None
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'",
            help="For addresses: a header of each request. `$NAME` is read from the environment: use single quotes. "
            "May be repeated.",
        ),
    ] = None
    body: Annotated[
        str | None,
        typer.Option(
            help="For other addresses than `.../v2/models/NAME`: what is sent, `png`, `jpeg`, or JSON in which "
            "`{image_base64}` stands for a PNG."
        ),
    ] = None
    label: Annotated[
        str | None,
        typer.Option(metavar="JMESPATH", help="For such addresses: where the label is in the JSON reply."),
    ] = None
    concurrency: Annotated[int | None, typer.Option(min=1, help="For addresses: requests at a time, by default 8.")] = (
        None
    )
    timeout: Annotated[float | None, typer.Option(help="For addresses: seconds for an answer, by default 30.")] = None
    connect_timeout: Annotated[
        float | None, typer.Option(help="For addresses: seconds until a connection is opened, by default 10.")
    ] = None
    most_bytes: Annotated[
        int | None, typer.Option(min=1, help="For addresses: the longest reply that is read, by default 16 MiB.")
    ] = None
    binary: Annotated[
        bool | None,
        typer.Option(
            "--binary/--no-binary",
            help="For addresses of `.../v2/models/NAME`: send tensors in bytes, or in JSON. If not given, in bytes if "
            "the server offers it.",
            show_default=False,
        ),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are given, as typed."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, [])}

    @property
    def identity(self) -> dict[str, Any]:
        """Those that labels depend on."""
        return {name: value for name, value in self.given.items() if name not in ("header", *_TRANSPORT)}

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are given, as ``load_classifier`` takes them. Raises ConfigError for texts that make no sense."""
        given = self.given
        http: dict[str, Any] = {
            name: given.pop(name) for name in ("body", "label", "binary", *_TRANSPORT) if name in given
        }
        renamed = {"model_threads": "threads", "model_precision": "precision"}
        given = {renamed.get(name, name): value for name, value in given.items()}
        if "header" in given:
            http["headers"] = parse_headers(given.pop("header"))
        parsed = {
            "mean": parse_channels(self.mean, "--mean"),
            "std": parse_channels(self.std, "--std"),
            "pixel_range": parse_range(self.pixel_range),
            "input_size": parse_size(self.input_size),
            "http": http or None,
        }
        return given | {name: value for name, value in parsed.items() if value is not None}


def load_from_options(
    spec: str, options: ClassifierOptions, *, device: str, classes: Sequence[str] | None = None
) -> tuple[Classifier, str]:
    """The classifier that a command line means, and its identity. Says what was assumed on standard error.

    classes: names of the classes in the order of their labels, for models that answer with names. Raises what
    ``load_classifier`` raises, and ConfigError for texts that make no sense.
    """
    settings = options.settings
    classifier = load_classifier(spec, **settings, device=device, classes=classes)
    for note in getattr(classifier, "notes", ()):
        say(f"note: {note}")
    named = None if classes is None else getattr(classifier, "classes", None)  # for others they are only words
    return classifier, classifier_identity(spec, classifier, options.identity, device, named)


def parse_headers(lines: Sequence[str]) -> dict[str, str]:
    """Read ``Name: value``. Raises ConfigError for other texts."""
    found = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ConfigError(f"--header must be a name and a value with a colon between, got {len(line)} characters")
        found[name.strip()] = value.strip()
    return found


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Read ``0..255``: two numbers, the lower one first. Raises ConfigError for other texts."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        values = float(low), float(high)
    except ValueError:
        dots = ""
    if not dots:
        raise ConfigError(
            f"--pixel-range must be two numbers with two dots between, e.g. 0..255 or -1..1, got {text!r}"
        )
    return values


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read ``224``, or ``224x160``: height and width. Raises ConfigError for other texts."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if found is None:
        raise ConfigError(f"--input-size must be one number, or height and width, e.g. 224x160, got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def with_classifier_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose keyword ``model: ClassifierOptions`` stands for the fields of that class, as options."""
    hints = get_type_hints(ClassifierOptions, include_extras=True)
    fields = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(ClassifierOptions)
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        parameters += fields if name == "model" else [parameter]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        own = {field.name: given.pop(field.name) for field in fields}
        command(**given, model=ClassifierOptions(**own))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
