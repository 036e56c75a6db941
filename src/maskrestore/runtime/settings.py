"""Frozen dataclasses as settings: checked by their types, changed by dotted names, written as plain dictionaries."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from maskrestore.errors import ConfigError, UnknownNameError

__all__ = [
    "check",
    "check_types",
    "differences",
    "flat",
    "plain",
    "setting",
    "stage_type",
    "type_hints",
    "with_settings",
]

T = TypeVar("T")

_EXPECTED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", tuple: "a tuple"}


def check(valid: bool, name: str, expected: str, actual: object) -> None:
    """Raise ConfigError that names a setting, what was expected and what was found, unless ``valid``."""
    if not valid:
        raise ConfigError(f"{name} must be {expected}, got {actual!r}")


def check_types(config: Any) -> None:
    """Raise ConfigError if a field of a dataclass is not of its annotated type; dictionaries are not looked into."""
    for name, annotation in type_hints(type(config)).items():
        value = getattr(config, name)
        options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
        if not any(_fits(option, value) for option in options):
            expected = " or ".join(_describe(option) for option in options)
            raise ConfigError(f"{name} must be {expected}, got {value!r}")


def with_settings(config: T, settings: Mapping[str, Any]) -> T:
    """A copy of a dataclass with some fields set; a dot leads into a dataclass inside it (``scores.label_weight``).

    A setting of a stage that is off (``None``) switches it on, with its defaults. Raises UnknownNameError for a field
    that does not exist, ConfigError for a value that does not fit. All are set at once, so that stages that need each
    other can be switched on or off in any order.
    """
    hints = type_hints(type(config))
    changed: dict[str, Any] = {}
    for path, value in settings.items():
        name, _, rest = path.partition(".")
        if name not in hints:
            raise UnknownNameError("setting", name, hints)
        if not rest:
            changed[name] = value
            continue
        stage = stage_type(type(config), name)
        if stage is None:
            raise ConfigError(f"{name} has no settings of its own, got {path!r}; set {name} itself")
        current = changed.get(name, getattr(config, name))
        changed[name] = with_settings(stage() if current is None else current, {rest: value})
    return dataclasses.replace(config, **changed) if changed else config  # type: ignore[type-var]


def setting(config: Any, path: str) -> Any:
    """The value of a dotted field; ``None`` inside a stage that is off. Raises UnknownNameError."""
    name, _, rest = path.partition(".")
    if name not in type_hints(type(config)):
        raise UnknownNameError("setting", name, type_hints(type(config)))
    value = getattr(config, name)
    return setting(value, rest) if rest and value is not None else value


def differences(standard: Any, config: Any, prefix: str = "") -> dict[str, Any]:
    """The dotted settings in which ``config`` differs from ``standard``, a dataclass of the same type."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        usual, value = getattr(standard, field.name), getattr(config, field.name)
        if usual == value:
            continue
        if dataclasses.is_dataclass(usual) and dataclasses.is_dataclass(value):
            found |= differences(usual, value, f"{prefix}{field.name}.")
        elif usual is None and dataclasses.is_dataclass(value) and not isinstance(value, type):
            # A stage that was off: name what is not its default, or at least that it is on.
            found |= differences(type(value)(), value, f"{prefix}{field.name}.") or {f"{prefix}{field.name}": "on"}
        else:
            found[f"{prefix}{field.name}"] = value
    return found


def plain(value: Any) -> Any:
    """A dataclass as JSON keeps it: dictionaries, lists, numbers and texts. Stages that are off are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        optional = {name for name in type_hints(type(value)) if stage_type(type(value), name) is not None}
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: plain(one) for name, one in fields.items() if one is not None or name not in optional}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted names: ``{"masks": {"rounds": 5}}`` -> ``{"masks.rounds": 5}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def stage_type(owner: type, name: str) -> type | None:
    """The dataclass that a field of ``owner`` holds, or may hold beside ``None``; ``None`` for any other field."""
    annotation = type_hints(owner)[name]
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def type_hints(cls: type) -> Mapping[str, Any]:
    """The annotations of a class, as types."""
    return _type_hints(cls)


@functools.cache
def _type_hints(cls: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (types.UnionType, typing.Union)


def _fits(annotation: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        items = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(items) == len(value) and all(map(_fits, items, value))
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is Any or not isinstance(annotation, type):
        return True
    if annotation in (int, float) and isinstance(value, bool):
        return False  # Python counts True as an integer
    return isinstance(value, (int, float) if annotation is float else annotation)


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a tuple of {_EXPECTED.get(arguments[0], 'values').removeprefix('a ')}s"
    if annotation is type(None):
        return "None"
    return _EXPECTED.get(annotation, getattr(annotation, "__name__", str(annotation)))
