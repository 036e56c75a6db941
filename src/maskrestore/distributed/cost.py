"""What purifying many images takes, computed from measured figures: hours of cores and GPUs, queries and storage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import check, check_types

__all__ = [
    "Demand",
    "Figure",
    "Hours",
    "Measured",
    "ResultBytes",
    "Unit",
    "Workers",
    "figure_of",
    "hours_of",
    "read_figures",
]

Unit = Literal["core", "GPU"]
"""What one worker runs on: one core of a processor, or one GPU."""

FIGURES_VERSION = 1
"""Schema version of a file of figures, incremented when the meaning or the layout changes."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What images took of which a known share had a trigger."""

    triggered: float
    """Share of the images with a trigger, in [0, 1]."""
    images: int
    """Number of images that were measured."""
    seconds: float
    """Mean for an image, without the time of the classifier unless the source of the figure says so."""
    queries: float
    """Mean for an image."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 <= self.triggered <= 1, "triggered", "a share between 0 and 1", self.triggered)
        check(self.images > 0, "images", "1 or more", self.images)
        check(self.seconds > 0, "seconds", "above 0", self.seconds)
        check(self.queries >= 0, "queries", "0 or more", self.queries)


@dataclass(frozen=True, kw_only=True)
class ResultBytes:
    """Mean size of the result of an image of a job that purifies a folder."""

    image: float
    """Bytes of the purified image, as PNG."""
    maps: float
    """Bytes of its scores and hidden tokens, as NPZ."""
    record: float
    """Bytes of its line in ``records.jsonl``."""

    @property
    def total(self) -> float:
        """Bytes of all files."""
        return self.image + self.maps + self.record

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured of a restorer and a profile on one worker."""

    restorer: str
    """Name of a packaged restorer."""
    profile: str
    unit: Unit
    size: int
    """Side of the images in pixels."""
    machine: str
    """Name of the processor, or of the GPU."""
    precision: str
    """What the restorer computed in."""
    created: str
    """Date of the record, ISO 8601."""
    source: str
    """The program or the record that the figure comes from."""
    measured: tuple[Measured, ...]
    """One or two, with the smallest share of triggered images first."""
    result: ResultBytes | None = None
    """``None``: was not measured."""

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < len(self.measured) <= 2, "measured", "one or two measurements", self.measured)

    def at(self, triggered: float) -> Measured:
        """What an image takes if this share of them has a trigger; with one measurement, what it took there."""
        first, last = self.measured[0], self.measured[-1]
        if first.triggered == last.triggered:
            return first
        weight = (triggered - first.triggered) / (last.triggered - first.triggered)
        return Measured(
            triggered=triggered,
            images=first.images + last.images,
            seconds=(1 - weight) * first.seconds + weight * last.seconds,
            queries=(1 - weight) * first.queries + weight * last.queries,
        )

    def bytes_at(self, size: int) -> ResultBytes | None:
        """The result of an image of another size: the bytes of its PNG grow with its pixels, the others do not."""
        if self.result is None:
            return None
        scaled = self.result.image * size**2 / self.size**2
        return ResultBytes(image=scaled, maps=self.result.maps, record=self.result.record)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is to be purified."""

    images: int
    triggered: float = 0.1
    """Share of the images with a trigger, in [0, 1]."""
    classifier_seconds: float = 0.0
    """Time of the worker that a query takes."""

    def images_per_hour(self, figure: Figure) -> float:
        """Images that one worker purifies in an hour."""
        taken = figure.at(self.triggered)
        return 3600 / (taken.seconds + taken.queries * self.classifier_seconds)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers of one kind: all on cores, or all on GPUs."""

    figure: Figure
    """What one of them takes."""
    count: int = 0
    """How many there are; 0 if that is not known."""
    price_per_hour: float | None = None
    """Of one of them."""


@dataclass(frozen=True, kw_only=True)
class Hours:
    """How long workers take for all images."""

    worked: tuple[float, ...]
    """Hours of the workers of each kind, added up: core-hours, GPU-hours."""
    elapsed: float | None
    """Hours until the last image is done; ``None`` if no number of workers is known."""


def hours_of(demand: Demand, kinds: Sequence[Workers]) -> Hours:
    """Compute the hours of all images.

    Workers share the images, each as fast as it is. If no number of them is known: the hours of all images on workers
    of the first kind, on workers of the second kind, and so on.
    """
    rates = [demand.images_per_hour(kind.figure) for kind in kinds]
    together = sum(kind.count * rate for kind, rate in zip(kinds, rates, strict=True))
    if not together:
        return Hours(worked=tuple(demand.images / rate for rate in rates), elapsed=None)
    elapsed = demand.images / together
    return Hours(worked=tuple(elapsed * kind.count for kind in kinds), elapsed=elapsed)


def figure_of(figures: Sequence[Figure], restorer: str, profile: str, unit: Unit) -> Figure | None:
    """Find the last figure of a restorer and a profile on one kind of worker; ``None`` if it was not measured."""
    found = [one for one in figures if (one.restorer, one.profile, one.unit) == (restorer, profile, unit)]
    return found[-1] if found else None


def read_figures(path: Path | None = None) -> list[Figure]:
    """Read the figures of a file that ``benchmarks/cost_figures.py`` wrote; ``None`` for those of the package.

    Raises ConfigError if the file cannot be read or holds something else.
    """
    file = files("maskrestore") / "assets" / "cost-figures.json" if path is None else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != FIGURES_VERSION:
            raise ConfigError(f"found version {content['version']!r}, expected {FIGURES_VERSION}")
        return [_figure(values) for values in content["figures"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{file} does not hold figures of costs ({reason}); make some with `python -m benchmarks.cost_figures`"
        ) from error


def _figure(values: dict[str, Any]) -> Figure:
    result = values.get("result")
    return Figure(
        **{
            **values,
            "measured": tuple(Measured(**one) for one in values["measured"]),
            "result": None if result is None else ResultBytes(**result),
        }
    )
