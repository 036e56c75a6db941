"""Markdown tables from records. Only means are computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from maskrestore.errors import DataError
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.records import Record

__all__ = ["accuracy_table", "cost_table", "markdown"]

T = TypeVar("T")

_RATES = ("ca", "ba", "asr")


def markdown(records: Sequence[Record]) -> str:
    """Return a table of accuracies for each data set, and one of costs. Raises DataError as ``accuracy_table`` does."""
    parts = [
        f"### {dataset}\n\n{accuracy_table([record for record in records if record.dataset == dataset])}"
        for dataset in _ordered(record.dataset for record in records)
    ]
    return "\n\n".join([*parts, f"### Cost\n\n{cost_table(records)}"]) + "\n"


def accuracy_table(records: Sequence[Record]) -> str:
    """Return CA / BA / ASR in percent for one data set, with a row for each attack and a column for each defense.

    Records of one attack and defense with different seeds or keys are averaged. The means at the end are over the
    records with an attack. Raises DataError when records of the same defense have different settings.
    """
    _check_settings(records)
    attacks = _ordered(record.attack for record in records)
    defenses = _ordered(record.defense.name for record in records if record.defense.name != "none")
    rows = [["attack", "no defense", *defenses]]
    for attack in attacks:
        chosen = [record for record in records if record.attack == attack]
        columns = [[record.before for record in chosen], *(_after(chosen, defense) for defense in defenses)]
        rows.append([attack or "clean model", *(_rates(column) for column in columns)])
    attacked = [record for record in records if record.attack is not None]
    if attacked:
        means = [_rates(_after(attacked, defense)) for defense in defenses]
        rows.append(["**mean of attacks**", _rates([record.before for record in attacked]), *means])
        rows.append(["**CA lost, mean of attacks**", "", *(_lost(attacked, defense) for defense in defenses)])
    return "Each cell: CA / BA / ASR, in %.\n\n" + _layout(rows)


def cost_table(records: Sequence[Record]) -> str:
    """Return mean queries and speed of each defense over the records that have them, and the processor."""
    heads = ("defense", "queries, mean", "median, clean", "max", "tokens restored", "images/s", "processor", "threads")
    rows = [list(heads)]
    for name in _ordered(record.defense.name for record in records):
        chosen = [record for record in records if record.defense.name == name]
        costs = [record.cost for record in chosen]
        medians = [cost.queries_median_clean for cost in costs if cost.queries_median_clean is not None]
        restored = [cost.restored_mean for cost in costs if cost.restored_mean is not None]
        speeds = [cost.images_per_second for cost in costs if not cost.shared_restorations]
        rows.append(
            [
                name,
                f"{_mean([cost.queries_mean for cost in costs]):.1f}",
                f"{_mean(medians):.1f}" if medians else "",
                str(max(cost.queries_max for cost in costs)),
                f"{100 * _mean(restored):.1f} %" if restored else "",
                f"{_mean(speeds):.1f}" if speeds else "",
                "; ".join(_ordered(record.environment.device for record in chosen)),
                "; ".join(_ordered(str(record.environment.threads) for record in chosen)),
            ]
        )
    return _layout(rows)


def _check_settings(records: Iterable[Record]) -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for record in records:
        defense = record.defense
        settings = (defense.config, defense.restorer_weights or defense.restorer)
        if seen.setdefault(defense.name, settings) != settings:
            raise DataError(
                f"records of {defense.name!r} on {record.dataset} differ in settings or restorer: "
                f"{seen[defense.name]} and {settings}; keep records of one kind in a folder"
            )


def _after(records: Iterable[Record], defense: str) -> list[Metrics]:
    return [record.after for record in records if record.defense.name == defense]


def _rates(metrics: Sequence[Metrics]) -> str:
    """Return ``CA / BA / ASR``, each the mean over the metrics that have it."""
    return " / ".join(_rate(metrics, name) for name in _RATES) if metrics else ""


def _rate(metrics: Sequence[Metrics], name: str) -> str:
    values = [rate.value for one in metrics if (rate := getattr(one, name)) is not None]
    return f"{100 * _mean(values):.1f}" if values else "–"


def _lost(records: Sequence[Record], defense: str) -> str:
    drops = [record.before.ca.value - record.after.ca.value for record in records if record.defense.name == defense]
    return f"{100 * _mean(drops):.1f}" if drops else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ordered(values: Iterable[T]) -> list[T]:
    """Return the distinct values in the order of first appearance."""
    return list(dict.fromkeys(values))


def _layout(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body])
