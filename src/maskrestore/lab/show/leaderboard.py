"""A leaderboard for each data set, with a row for each defense and a column for each attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.measure.records import Record
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.show.sheets import Sheet, bold
from maskrestore.lab.show.summary import costs_of

__all__ = ["diffusion_model_of", "leaderboard", "read_folders"]


@dataclass(frozen=True)
class _Kind:
    """The attack of a column."""

    attack: str
    mode: str

    @property
    def title(self) -> str:
        """Title of the column."""
        return self.attack if self.mode == "all-to-one" else f"{self.attack}, {self.mode}"


def leaderboard(records: Sequence[Record]) -> list[Sheet]:
    """Return a sheet for each data set and victim width, with a row for each defense and a column for each attack.

    Only defenses with their default settings and victims of the architecture ResNet-18 with a backdoor are shown. For
    each attack and repeat, the victim with the most defenses is used; repeats are averaged. For each defense, only
    records with the settings of its newest record are used, and of several, the one with the most images. Attacks with
    fewer than half of the defenses do not count for the ranking. Points of curves are left out.
    """
    chosen = _comparable([one for one in records if _kind(one) is not None and _whole(one)])
    titles = dict.fromkeys(_title(record) for record in chosen)
    return [_board(title, [record for record in chosen if _title(record) == title]) for title in titles]


def read_folders(folders: Sequence[Path]) -> list[Record]:
    """Return the records of folders of ``maskrestore reproduce``. The first folder with a record of a name wins.

    Raises DataError if a folder has no records or one is invalid.
    """
    found: dict[str, Record] = {}
    for folder in folders:
        records = ResultsFolder(folder).cells.read()
        if not records:
            raise DataError(
                f"{folder} contains no records; make some with `maskrestore reproduce table2 --out {folder}`"
            )
        found |= {name: record for name, record in records.items() if name not in found}
    return list(found.values())


def diffusion_model_of(records: Sequence[Record]) -> str | None:
    """Return the digest of the diffusion model of most records, or ``None``. It is part of the cells."""
    models = Counter(
        record.defense.restorer_weights
        for record in records
        if record.defense.restorer_weights is not None and "model" in record.defense.config
    )
    return max(models, key=lambda model: models[model]) if models else None


def _board(title: str, records: Sequence[Record]) -> Sheet:
    names = list(dict.fromkeys(record.defense.name for record in records))
    met = Counter(kind for kind, _ in {(_kind(record), record.defense.name) for record in records})
    every = [kind for kind in dict.fromkeys(map(_kind, records)) if kind is not None]
    ranking = [kind for kind in every if 2 * met[kind] >= len(names)]
    kinds = [*ranking, *(kind for kind in every if kind not in ranking)]
    scores = {
        (name, kind): _score([r for r in records if r.defense.name == name and _kind(r) == kind])
        for name in names
        for kind in kinds
    }

    def rank(name: str) -> tuple[int, float]:
        values = [value for kind in ranking if (value := scores[name, kind]) is not None]
        return len(ranking) - len(values), -sum(values) / max(1, len(values))

    best = {kind: max(value for name in names if (value := scores[name, kind]) is not None) for kind in kinds}
    rows = []
    for name in sorted(names, key=rank):
        values = [scores[name, kind] for kind in kinds]
        cells = [
            "–" if value is None else bold(f"{value:.1f}") if value == best[kind] else f"{value:.1f}"
            for kind, value in zip(kinds, values, strict=True)
        ]
        known = [value for value in values[: len(ranking)] if value is not None]
        costs = costs_of([record for record in records if record.defense.name == name])
        mean = f"{sum(known) / len(known):.1f}" if known and len(known) == len(ranking) else "–"
        rows.append((name, mean, *cells, f"{costs.queries:.1f}", f"{costs.seconds:.4f}"))
    titles = [kind.title if kind in ranking else f"*{kind.title}*" for kind in kinds]
    heads = ("defense", "mean", *titles, "queries/image", "s/image")
    return Sheet(title=title, heads=heads, rows=tuple(rows))


def _title(record: Record) -> str:
    return f"{record.dataset}, ResNet-18 of width {record.victim.config.get('width')}"


def _kind(record: Record) -> _Kind | None:
    """Return the column of a record, or ``None`` when it is not part of a leaderboard."""
    config = record.victim.config
    if record.attack is None or config.get("attack") is None or config.get("architecture") != "resnet18":
        return None
    notes = " (restored)" if config.get("restored_rate") else ""
    notes += " (moved)" if config.get("augmented_trigger") else ""
    mode = str(config.get("mode", "all-to-one"))
    return _Kind(record.attack + notes, mode)


def _whole(record: Record) -> bool:
    """Return whether a defense has its default settings and shares no cached restorations (as points of curves do)."""
    return "[" not in record.defense.name and not record.cost.shared_restorations


def _comparable(records: Sequence[Record]) -> list[Record]:
    """Return the records with the newest settings of each defense and one victim per column, one for each repeat."""
    oldest_first = sorted(records, key=lambda one: one.created)
    settings = {record.defense.name: record.defense.config for record in oldest_first}
    current = [record for record in oldest_first if record.defense.config == settings[record.defense.name]]
    met: dict[tuple[object, ...], dict[str, set[str]]] = {}
    for record in current:
        met.setdefault(_column(record), {}).setdefault(record.victim.digest, set()).add(record.defense.name)
    # If two victims have the same number of defenses, use the one whose first record is newer.
    victims = {column: max(reversed(found.items()), key=lambda item: len(item[1]))[0] for column, found in met.items()}
    latest: dict[tuple[object, ...], Record] = {}
    for record in sorted(current, key=lambda one: (one.clean_images + one.triggered_images, one.created)):
        if record.victim.digest == victims[_column(record)]:
            latest[*_column(record), record.defense.name] = record
    # Sorted by name, not by time, so that the page does not change when a record is made again.
    return sorted(latest.values(), key=lambda one: (one.dataset, one.attack or "", one.defense.name, one.seed))


def _column(record: Record) -> tuple[object, ...]:
    """Return the key of a column and repeat."""
    return _title(record), record.attack, _kind(record), record.seed


def _score(records: Sequence[Record]) -> float | None:
    """Return the mean of CA and BA over repeats, in percent, or ``None`` without any BA."""
    values = [(one.after.ca.value + one.after.ba.value) / 2 for one in records if one.after.ba is not None]
    return 100 * sum(values) / len(values) if values else None
