"""A leaderboard for each data set: one row for each defense, one column for each attack."""

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
    """The attack of a column of the leaderboard."""

    attack: str
    mode: str

    @property
    def title(self) -> str:
        """Of its column."""
        return self.attack if self.mode == "all-to-one" else f"{self.attack}, {self.mode}"


def leaderboard(records: Sequence[Record]) -> list[Sheet]:
    """A sheet for each data set and width: a row for each defense with its own settings, a column for each attack.

    Victims are ResNet-18 with a backdoor, for each attack and repeat the one that most defenses met; repeats are
    averaged. Of a defense the settings of its newest record count, and of their records the one with most images.
    Attacks that fewer than half of the defenses met do not count for the ranks. Points of curves are left out.
    """
    chosen = _comparable([one for one in records if _kind(one) is not None and _whole(one)])
    titles = dict.fromkeys(_title(record) for record in chosen)
    return [_board(title, [record for record in chosen if _title(record) == title]) for title in titles]


def read_folders(folders: Sequence[Path]) -> list[Record]:
    """The records of folders of ``maskrestore reproduce``; of two that share a name the one of the first folder.

    Raises DataError if a folder has none or one is broken.
    """
    found: dict[str, Record] = {}
    for folder in folders:
        records = ResultsFolder(folder).cells.read()
        if not records:
            raise DataError(f"{folder} holds no records; make some with `maskrestore reproduce table2 --out {folder}`")
        found |= {name: record for name, record in records.items() if name not in found}
    return list(found.values())


def diffusion_model_of(records: Sequence[Record]) -> str | None:
    """The digest of the diffusion model of most records, if any; it is part of the digest of their cells."""
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
    """The column of a record; ``None`` if it belongs to no leaderboard."""
    config = record.victim.config
    if record.attack is None or config.get("attack") is None or config.get("architecture") != "resnet18":
        return None
    notes = " (restored)" if config.get("restored_rate") else ""
    notes += " (moved)" if config.get("augmented_trigger") else ""
    mode = str(config.get("mode", "all-to-one"))
    return _Kind(record.attack + notes, mode)


def _whole(record: Record) -> bool:
    """Whether a defense ran with its own settings and without cached restorations, so that its seconds count."""
    return "[" not in record.defense.name and not record.cost.recalled


def _comparable(records: Sequence[Record]) -> list[Record]:
    """Those of the newest settings of each defense and, column by column, of one victim; one for each repeat."""
    oldest_first = sorted(records, key=lambda one: one.created)
    settings = {record.defense.name: record.defense.config for record in oldest_first}
    current = [record for record in oldest_first if record.defense.config == settings[record.defense.name]]
    met: dict[tuple[object, ...], dict[str, set[str]]] = {}
    for record in current:
        met.setdefault(_column(record), {}).setdefault(record.victim.digest, set()).add(record.defense.name)
    # Of two victims that as many met, the one whose first record is newer.
    victims = {column: max(reversed(found.items()), key=lambda item: len(item[1]))[0] for column, found in met.items()}
    latest: dict[tuple[object, ...], Record] = {}
    for record in sorted(current, key=lambda one: (one.clean_images + one.triggered_images, one.created)):
        if record.victim.digest == victims[_column(record)]:
            latest[*_column(record), record.defense.name] = record
    # Ordered by name, not by time: the page stays the same when a record is made again.
    return sorted(latest.values(), key=lambda one: (one.dataset, one.attack or "", one.defense.name, one.seed))


def _column(record: Record) -> tuple[object, ...]:
    """What identifies a column and a repeat."""
    return _title(record), record.attack, _kind(record), record.seed


def _score(records: Sequence[Record]) -> float | None:
    """The mean of CA and BA in percent over repeats."""
    values = [(one.after.ca.value + one.after.ba.value) / 2 for one in records if one.after.ba is not None]
    return 100 * sum(values) / len(values) if values else None
