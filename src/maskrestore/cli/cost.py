"""``maskrestore cost``: what purifying many images takes, from measured figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from maskrestore.cli.options import ProfileOption, RestorerOption
from maskrestore.cli.terminal import out, say
from maskrestore.defense.profiles import PROFILES
from maskrestore.distributed.cost import Demand, Figure, Hours, Unit, Workers, figure_of, hours_of, read_figures
from maskrestore.errors import ConfigError
from maskrestore.mae.choice import DEFAULT_RESTORER, packaged_restorer
from maskrestore.runtime.words import counted

__all__ = ["cost", "cost_rows"]

_USUAL_SIZE = 224
"""Side in pixels of the pictures that the restorer is chosen for, if no size is given."""


def _finite(value: float | None) -> float | None:
    """Return the value of an option. Raises ConfigError if it is infinite or not a number."""
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"expected a finite number, got {value}")
    return value


def cost(
    *,
    images: Annotated[float, typer.Option(min=1, max=1e15, callback=_finite, help="Number of images, such as 1e9.")],
    restorer: RestorerOption = DEFAULT_RESTORER,
    profile: ProfileOption = "default",
    cores: Annotated[
        int, typer.Option(min=0, help="Number of processor cores, with a worker on each. With it hours are shown.")
    ] = 0,
    gpus: Annotated[int, typer.Option(min=0, help="Number of GPUs, with a worker on each, beside the cores.")] = 0,
    price_per_core_hour: Annotated[float | None, typer.Option(min=0, callback=_finite, help="In any currency.")] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, callback=_finite, help="In the same currency.")
    ] = None,
    price_per_query: Annotated[
        float | None, typer.Option(min=0, callback=_finite, help="Of a paid model, in the same currency.")
    ] = None,
    classifier_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            callback=_finite,
            help="Seconds of a worker for a query of your classifier; the measured figures leave the classifier out.",
        ),
    ] = 0.0,
    triggered: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=_finite, help="Share of the images with a trigger. They take more queries."
        ),
    ] = 0.1,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Side in pixels of the pictures that are stored. Default: that of the measured pictures.",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="A file of `python -m benchmarks.cost_figures`. Default: the figures of the package."),
    ] = None,
) -> None:
    """Compute what purifying many images takes: hours, queries, storage and money.

    The figures were measured on the machines that are named below the table. Yours is faster or slower: in a copy of
    the repository, `python -m benchmarks.cost_figures --out mine.json` measures it, and `--figures mine.json` computes
    with that. The time of pictures is that at the size at which the classifier sees them.

    Examples:

        maskrestore cost --images 1e9 --restorer mae-photo-224 --profile fast

        maskrestore cost --images 1e6 --cores 64 --price-per-core-hour 0.04 --price-per-query 0.0001
    """
    known = read_figures(figures)
    name = packaged_restorer(*[size or _USUAL_SIZE] * 2) if restorer == DEFAULT_RESTORER else restorer
    asked: tuple[tuple[Unit, int, float | None], ...] = (
        ("core", cores, price_per_core_hour),
        ("GPU", gpus, price_per_gpu_hour),
    )
    kinds = [
        Workers(figure=figure, count=count, price_per_hour=price)
        for unit, count, price in asked
        if (figure := figure_of(known, name, profile, unit)) is not None
    ]
    units = [kind.figure.unit for kind in kinds]
    for unit, count, price in asked:
        if unit not in units and (count or price is not None or not units):
            raise ConfigError(_not_measured(known, name, profile, unit))
    demand = Demand(images=round(images), triggered=triggered, classifier_seconds=classifier_seconds)
    table = Table("", "arithmetic", "result", title=f"{demand.images:,} images, {name}, profile {profile}")
    table.columns[2].justify = "right"
    for row in cost_rows(demand, kinds, size=size, price_per_query=price_per_query):
        table.add_row(*row)
    out.print(table)
    for kind in kinds:
        say(_origin(kind.figure, triggered))
    if "GPU" not in units:
        say(f"GPU: not measured for {name} with {profile}")
    say("another machine takes another time; measure yours with `python -m benchmarks.cost_figures --out mine.json`")


def cost_rows(
    demand: Demand, kinds: Sequence[Workers], *, size: int | None = None, price_per_query: float | None = None
) -> Iterator[tuple[str, str, str]]:
    """Each line of the table: what it is about, the arithmetic, and the result.

    kinds: one or more; if the number of workers of some is known, those work. size: side in pixels of the pictures that
    are stored; ``None``: of those that were measured.
    """
    working = [kind for kind in kinds if kind.count] or kinds
    hours = hours_of(demand, working)
    images, figure = f"{demand.images:,} images", kinds[0].figure
    yield from _time_rows(demand, working, hours)
    queries, most = figure.at(demand.triggered).queries, PROFILES[figure.profile].max_queries
    yield "queries", f"{images} x {queries:.5g}", _number(demand.images * queries)
    yield "queries at most", f"{images} x {most}", _number(demand.images * most)
    stored = figure.bytes_at(size or figure.size)
    if stored is None:
        yield "storage", "not measured", ""
    else:
        parts = f"({stored.image:,.0f} PNG + {stored.maps:,.0f} maps + {stored.record:,.0f} record) bytes"
        yield "storage", f"{images} x {parts}", _bytes(demand.images * stored.total)
    for kind, worked in zip(working, hours.worked, strict=True):
        if kind.price_per_hour is not None:
            yield _price(f"{kind.figure.unit}-hours", worked, kind.price_per_hour)
    if price_per_query is not None:
        yield _price("queries", demand.images * queries, price_per_query)


def _time_rows(demand: Demand, kinds: Sequence[Workers], hours: Hours) -> Iterator[tuple[str, str, str]]:
    images = f"{demand.images:,} images"
    rates = [_number(demand.images_per_hour(kind.figure)) for kind in kinds]
    workers = [counted(kind.count, kind.figure.unit) for kind in kinds]
    together = " + ".join(f"{several} x {rate}" for several, rate in zip(workers, rates, strict=True))
    if hours.elapsed is not None:
        yield "hours", f"{images} / ({together} an hour)", f"{_number(hours.elapsed)}"
    for kind, several, rate, worked in zip(kinds, workers, rates, hours.worked, strict=True):
        unit, taken = kind.figure.unit, kind.figure.at(demand.triggered)
        classifier = f" + {taken.queries:.5g} queries x {demand.classifier_seconds:g} s"
        each = f"{taken.seconds:.3g} s" + (classifier if demand.classifier_seconds else "")
        yield f"images per {unit}-hour", f"3,600 s / ({each})", rate
        if hours.elapsed is None:
            yield f"{unit}-hours", f"{images} / {rate}", _number(worked)
        else:
            yield f"{unit}-hours", f"{_number(hours.elapsed)} hours x {several}", _number(worked)


def _price(name: str, amount: float, price: float) -> tuple[str, str, str]:
    return f"price of {name}", f"{_number(amount)} {name} x {price:g}", f"{amount * price:,.2f}"


def _not_measured(known: Sequence[Figure], restorer: str, profile: str, unit: Unit) -> str:
    measured = "; ".join(f"{one.restorer} with {one.profile} on a {one.unit}" for one in known)
    return (
        f"{restorer} with {profile} was not measured on a {unit}; measured: {measured}. To measure it: "
        "python -m benchmarks.cost_figures --out mine.json, and add --figures mine.json"
    )


def _origin(figure: Figure, triggered: float) -> str:
    """Where a figure comes from."""
    (first, *others), name = figure.measured, f"one {figure.unit}"
    fixed = "" if others else f", with {first.triggered:.0%} of the images triggered, whatever --triggered says"
    return (
        f"{name}: {figure.machine}, {figure.precision}, {figure.size} x {figure.size} pixels, {figure.created}, "
        f"{figure.source}{fixed}"
    )


def _number(value: float) -> str:
    """Whole numbers with commas; small ones with three digits."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"
