"""What is recorded of an evaluation: all that is needed to make it again, and the schema check of what is read back.

A record holds counts, settings and versions: no labels, no images, and of the operator's key only the fingerprint.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from maskrestore.errors import DataError
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.runtime.environment import Environment
from maskrestore.runtime.files import write_text_atomically

__all__ = [
    "RECORD_VERSION",
    "Cost",
    "DefenseEntry",
    "Record",
    "VictimEntry",
    "decode",
    "read_record",
    "write_record",
]

T = typing.TypeVar("T")

RECORD_VERSION = 1
"""Raised when the meaning or the layout of a record changes."""


@dataclass(frozen=True, kw_only=True)
class VictimEntry:
    """The classifier under attack."""

    config: dict[str, Any]
    digest: str
    """Of its configuration: the name of its weights in the cache."""
    weights: str
    """Digest of the weights themselves."""
    precision: str
    """Numeric precision during the evaluation."""
    ca: float | None
    """Clean accuracy on the whole test split, measured when it was trained; in [0, 1]."""
    asr: float | None
    """Attack success rate on the whole test split, measured then; in [0, 1]."""
    cross_trigger: float | None = None
    """Accuracy on the whole test split with the triggers of other images (Nguyen & Tran 2020), in [0, 1];
    ``None`` for attacks whose triggers do not depend on the image, and in old records."""


@dataclass(frozen=True, kw_only=True)
class DefenseEntry:
    """The defense that was measured."""

    name: str
    """Name in the registry of defenses, with the settings that differ from it in brackets."""
    config: dict[str, Any]
    restorer: str | None
    """Name of the masked autoencoder or the diffusion model, or where its weights were read from."""
    restorer_weights: str | None
    """Digest of its weights."""
    restorer_precision: str | None
    """Numeric precision during the evaluation."""
    key_fingerprint: str | None
    """Identifies the key that seeded the masks; the key itself is never written."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the defense cost over all images, clean and triggered."""

    queries_mean: float
    queries_max: int
    restored_mean: float | None
    """Mean share of an image's tokens that were restored; ``None`` for defenses without tokens."""
    seconds: float
    images_per_second: float
    passes_mean: float | None = None
    """Generator passes per image; ``None`` for defenses without a generator, and in old records."""
    peak_memory: int | None = None
    """Bytes, in the last run if the evaluation was interrupted; ``None`` where it is not known."""
    memory_scope: str | None = None
    """What ``peak_memory`` was measured over: see ``costs.MemoryMeter``."""
    queries_median_clean: float | None = None
    """For a clean image; ``None`` in old records."""
    recalled: bool = False
    """Whether restorations and labels may have come from the cache (``restoration_cache.py``): then ``seconds`` and
    ``peak_memory`` say nothing about the defense."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluation: one data set, victim, attack and defense."""

    version: int = RECORD_VERSION
    name: str
    """Identifies the record in its file."""
    digest: str
    """Of everything that was asked for: data, victim, attack, defense, key, counts and seed."""
    created: str
    """UTC, ISO 8601."""
    dataset: str
    clean_images: int
    triggered_images: int
    seed: int
    """Of the choice of test images."""
    attack: str | None
    """The attack with its variant; its target and seed are the victim's."""
    victim: VictimEntry
    defense: DefenseEntry
    environment: Environment
    before: Metrics
    """Rates of the undefended victim on the same images."""
    after: Metrics
    """Rates with the defense."""
    kept: int
    """Clean images whose label the defense left as it was."""
    cost: Cost


def write_record(path: Path, record: Record) -> None:
    """Write ``record`` as JSON; a reader never sees half a file."""
    write_text_atomically(path, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def read_record(path: Path) -> Record:
    """Read and check a record. Raises DataError that names the file and the entry that is wrong."""
    try:
        return decode(Record, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a valid record: {error}") from error


def decode(kind: type[T], values: Any) -> T:
    """Turn parsed JSON into the dataclass ``kind``, entry by entry; the default of its field ``version`` is expected.

    Raises ValueError that says which entry does not fit.
    """
    (expected,) = (field.default for field in dataclasses.fields(cast(Any, kind)) if field.name == "version")
    found = values.get("version") if isinstance(values, dict) else None
    if found != expected:
        raise ValueError(
            f"found record version {found!r}, expected {expected}; "
            "make the record again with this version of maskrestore"
        )
    return cast(T, _decode(kind, values, "record"))


def _decode(annotation: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into the annotated type; raise ValueError that says which entry does not fit."""
    if annotation is Any:
        return value
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _decode_fields(annotation, value, where)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (wanted,) = (argument for argument in arguments if argument is not type(None))
        return _decode(wanted, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} should be an object, got {value!r}")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    # JSON does not tell 1.0 from 1, and Python counts True as an integer.
    fits = isinstance(value, (int, float) if annotation is float else annotation)
    if not fits or (isinstance(value, bool) and annotation is not bool):
        raise ValueError(f"{where} should be {annotation.__name__}, got {value!r}")
    return float(value) if annotation is float else value


def _decode_fields(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} should be an object, got {value!r}")
    hints = _type_hints(cls)
    # An entry with a default was added later: old records lack it.
    needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
    missing, unknown = needed - value.keys(), value.keys() - hints.keys()
    if missing or unknown:
        raise ValueError(f"{where} lacks {sorted(missing)} and has unknown entries {sorted(unknown)}")
    return cls(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
