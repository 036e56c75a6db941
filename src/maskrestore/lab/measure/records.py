"""The record of an evaluation, and the schema check when it is read.

A record contains everything needed to repeat the evaluation: counts, settings and versions. It contains no labels, no
images and no key; the operator's key is represented by its fingerprint.
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
from maskrestore.lab.measure.suspicions import SuspicionEntry
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

RECORD_VERSION = 2
"""Schema version, incremented when the meaning or the layout of a record changes."""


@dataclass(frozen=True, kw_only=True)
class VictimEntry:
    """The classifier under attack."""

    config: dict[str, Any]
    digest: str
    """Digest of the configuration. It identifies the weights in the cache."""
    weights: str
    """Digest of the weights."""
    precision: str
    """Arithmetic during the evaluation, e.g. "float32"."""
    ca: float | None
    """Clean accuracy on the whole test split, in [0, 1], measured after training."""
    asr: float | None
    """Attack success rate on the whole test split, in [0, 1], measured after training."""
    cross_trigger: float | None = None
    """Accuracy on the whole test split with the triggers of other images (Nguyen & Tran 2020), in [0, 1]. ``None`` for
    attacks whose trigger does not depend on the image, and in old records."""


@dataclass(frozen=True, kw_only=True)
class DefenseEntry:
    """The defense that was measured."""

    name: str
    """Name in the registry of defenses, followed by the settings that differ from it, in brackets."""
    config: dict[str, Any]
    restorer: str | None
    """Name of the masked autoencoder or the diffusion model, or the source of its weights."""
    restorer_weights: str | None
    """Digest of its weights."""
    restorer_precision: str | None
    """Its arithmetic, e.g. "float32"."""
    key_fingerprint: str | None
    """Fingerprint of the key that seeded the masks. The key itself is never written."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The costs of the defense over all images, clean and triggered."""

    queries_mean: float
    """Per image."""
    queries_max: int
    """Of any image."""
    restored_mean: float | None
    """Mean share of restored tokens, in [0, 1]; ``None`` for defenses without tokens."""
    seconds: float
    """Over all images."""
    images_per_second: float
    passes_mean: float | None = None
    """Passes through the defense's generator per image; ``None`` without a generator and in old records."""
    peak_memory: int | None = None
    """Peak memory in bytes. If the measurement was interrupted and resumed, of the last run. ``None`` if unknown."""
    memory_scope: str | None = None
    """What ``peak_memory`` was measured over: see ``costs.MemoryMeter``."""
    queries_median_clean: float | None = None
    """Median of the clean images; ``None`` in old records."""
    shared_restorations: bool = False
    """Whether restorations and labels may come from a cache that cells share (``restoration_cache.py``). If so,
    ``seconds`` and ``peak_memory`` are not those of the defense."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one evaluation: one data set, victim, attack and defense."""

    version: int = RECORD_VERSION
    name: str
    """Identifies the record in its file."""
    digest: str
    """Digest of everything that identifies the evaluation: data, victim, attack, defense, key, counts and seed."""
    created: str
    """UTC, ISO 8601."""
    dataset: str
    clean_images: int
    triggered_images: int
    seed: int
    """Seed of the choice of test images."""
    attack: str | None
    """The attack with its variant. Its target and seed are those of the victim."""
    victim: VictimEntry
    defense: DefenseEntry
    environment: Environment
    before: Metrics
    """Rates of the victim without the defense, on the same images."""
    after: Metrics
    """Rates with the defense."""
    kept: int
    """Number of clean images whose label the defense did not change."""
    cost: Cost
    suspicion: SuspicionEntry | None = None
    """How good its suspicion is; ``None`` for defenses without one and in old records."""


def write_record(path: Path, record: Record) -> None:
    """Write ``record`` as JSON. The file is replaced atomically."""
    write_text_atomically(path, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def read_record(path: Path) -> Record:
    """Read and check a record. Raises DataError, which names the file and the invalid entry."""
    try:
        return decode(Record, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a valid record: {error}") from error


def decode(kind: type[T], values: Any) -> T:
    """Convert parsed JSON to the dataclass ``kind`` and check every entry.

    The version must equal the default of the field ``version``. Raises ValueError, which names the invalid entry.
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
    """Convert parsed JSON to the annotated type. Raises ValueError, which names the invalid entry ``where``."""
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
    # In JSON 1 may stand for 1.0; in Python True is an instance of int.
    fits = isinstance(value, (int, float) if annotation is float else annotation)
    if not fits or (isinstance(value, bool) and annotation is not bool):
        raise ValueError(f"{where} should be {annotation.__name__}, got {value!r}")
    return float(value) if annotation is float else value


def _decode_fields(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} should be an object, got {value!r}")
    hints = _type_hints(cls)
    # Entries with a default were added later; old records do not have them.
    needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
    missing, unknown = needed - value.keys(), value.keys() - hints.keys()
    if missing or unknown:
        raise ValueError(f"{where} lacks {sorted(missing)} and has unknown entries {sorted(unknown)}")
    return cls(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
