"""``--set NAME=VALUE``: change fields of a configuration. Its dataclass gives their types and checks their values."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.runtime.settings import stage_type, type_hints, with_settings

__all__ = ["with_overrides"]

T = TypeVar("T")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def with_overrides(config: T, assignments: Iterable[str]) -> T:
    """A copy of the dataclass ``config`` with fields set by ``name=value`` texts.

    Numbers, words and booleans are written plainly, tuples with commas (``restoration.thresholds=0.6,0.5``), objects as
    JSON. A dot separates a configuration from its field (``recipe.epochs=3``). ``squares=none`` switches an optional
    stage off, ``squares=on`` switches it on with its defaults. Raises ConfigError if a text has another form or a value
    another type, UnknownNameError if the field does not exist.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"expected NAME=VALUE, got {assignment!r}")
        try:
            value = _parse(_annotation(type(config), path), text)
        except ValueError as error:
            # An unknown name says so itself.
            raise error if isinstance(error, ConfigError) else ConfigError(f"{assignment}: {error}") from error
        settings.pop(path, None)  # what is said last is set last
        settings[path] = value
    return with_settings(config, settings)


def _annotation(owner: type, path: str) -> Any:
    """The type of a dotted field. Raises UnknownNameError."""
    name, dot, rest = path.partition(".")
    hints = type_hints(owner)
    if name not in hints:
        raise UnknownNameError("setting", name, hints)
    inner = stage_type(owner, name)
    if dot and inner is None:
        raise ValueError(f"{name} has no settings of its own; expected {name}=VALUE")
    return _annotation(inner, rest) if dot and inner is not None else hints[name]


def _parse(annotation: Any, text: str) -> Any:  # noqa: PLR0911 - one return for each kind of type
    """Read ``text`` as the annotated type; raises ValueError that says what was expected."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        inner = next(argument for argument in arguments if argument is not type(None))
        if text.lower() in ("none", "null") and type(None) in arguments:
            return None
        if dataclasses.is_dataclass(inner) and isinstance(inner, type) and text.lower() == "on":
            return inner()
        return _parse(inner, text)
    if origin is typing.Literal:
        return _choice({str(argument): argument for argument in arguments}, text)
    if annotation is bool:
        return _choice(_TRUTH, text.lower())
    if origin is tuple:
        return _parse_tuple(arguments, text)
    if dataclasses.is_dataclass(annotation):
        raise ValueError("expected NAME.FIELD=VALUE: it has settings of its own, set one by one")
    try:
        value = json.loads(text) if origin is dict else annotation(text)
    except ValueError as error:
        expected = "a JSON object" if origin is dict else f"a value of type {annotation.__name__}"
        raise ValueError(f"expected {expected}, got {text!r}") from error
    if origin is dict and not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text!r}")
    return value


def _choice(choices: dict[str, Any], text: str) -> Any:
    if text not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}, got {text!r}")
    return choices[text]


def _parse_tuple(arguments: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    items = [item.strip() for item in text.split(",")]
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_parse(arguments[0], item) for item in items)
    if len(items) != len(arguments):
        raise ValueError(f"expected {len(arguments)} values separated by commas, got {len(items)}")
    return tuple(_parse(argument, item) for argument, item in zip(arguments, items, strict=True))
