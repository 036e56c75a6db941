"""Figures of images: the steps of the defense, its refinement, its scores, and purified images side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from maskrestore.errors import DataError, MaskRestoreError
from maskrestore.lab.measure.run import choose_images, triggered_images
from maskrestore.lab.paper.cells import Case, Cell, Scale, Variant
from maskrestore.lab.paper.layouts import Pictures
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.show.mosaic import Tile, mosaic
from maskrestore.lab.show.plots import COLOURS, new_figure, save
from maskrestore.mae.choice import DEFAULT_RESTORER
from maskrestore.reporting import ReportEntry, entries_from, write_figure
from maskrestore.types import Purification

__all__ = ["draw_pictures"]


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Images of a case and the result of a defense."""

    case: Case
    variant: Variant
    names: tuple[str, ...]
    """Names of the classes."""
    images: Tensor
    """``(B, C, H, W)`` in [0, 1], with the trigger if the part is "triggered" and the case has one."""
    labels: Tensor
    """``(B,)`` int64: the true labels."""
    result: Purification


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the CSV file beside a figure."""

    case: str
    defense: str
    image: int
    part: str
    true_label: int
    original_label: int
    label: int
    largest_score: float | None


def draw_pictures(
    path: Path,
    pictures: Pictures,
    scale: Scale,
    resources: Resources,
    *,
    restorer: str = DEFAULT_RESTORER,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Purify some test images of every case and draw them as ``pictures.kind`` says. Write ``path`` and a CSV file.

    Cases without a victim and defenses that cannot be built are left out and reported to ``report``. Returns ``path``.
    Raises DataError when nothing is left, and MissingDependencyError without matplotlib.
    """
    count = min(pictures.images, scale.images or pictures.images)
    purifier = _Purifier(scale=scale, resources=resources, restorer=restorer, report=report)
    draw = {
        "process": _draw_process,
        "refinement": _draw_refinement,
        "scores": _draw_scores,
        "side-by-side": _draw_side_by_side,
    }[pictures.kind]
    parts = ("triggered", "clean") if pictures.kind == "scores" else ("triggered",)
    shown = {part: purifier.shown(pictures, part, count) for part in parts}
    if not all(shown.values()):
        raise DataError(f"nothing of {pictures.title!r} can be drawn; add --train, or see the messages above")
    rows = [row for part, ones in shown.items() for one in ones for row in _rows(one, part)]
    return draw(path, pictures, shown, rows)


@dataclass(frozen=True, kw_only=True)
class _Purifier:
    """Purifies the images of a figure."""

    scale: Scale
    resources: Resources
    restorer: str
    report: Callable[[str], None]

    def shown(self, pictures: Pictures, part: str, count: int) -> list[_Shown]:
        """Return the results of every case with every defense."""
        found = []
        for case in pictures.cases:
            for variant in pictures.variants:
                cell = Cell(case=case, variant=variant, scale=self.scale, restorer=self.restorer)
                try:
                    one = self._purified(cell, part, count)
                except MaskRestoreError as error:
                    self.report(f"left out {case.label} with {variant.defense}: {' '.join(str(error).split())}")
                    continue
                if one is None:
                    self.report(f"left out {case.label}: its victim is not trained")
                    break
                found.append(one)
        return found

    def _purified(self, cell: Cell, part: str, count: int) -> _Shown | None:
        lab = self.resources
        victim = lab.victim(cell.victim)
        if victim is None:
            return None
        dataset, attack = lab.dataset(cell.case.dataset), lab.attack(cell)
        triggered = part == "triggered" and attack is not None
        eligible = attack.eligible(dataset.labels) if triggered and attack is not None else None
        index = choose_images(dataset.labels, count, cell.repeat, eligible)
        raw = dataset.images[index]
        images = triggered_images(raw, attack) if triggered and attack is not None else raw.float() / 255
        return _Shown(
            case=cell.case,
            variant=cell.variant,
            names=dataset.class_names,
            images=images,
            labels=dataset.labels[index],
            result=lab.defense(cell).defense.purify(images, victim.classifier),
        )


def _draw_process(path: Path, pictures: Pictures, shown: dict[str, list[_Shown]], rows: list[_Row]) -> Path:
    """Draw the panel of the reports: image, scores before and after refinement, hidden tokens, purified image."""
    entries: list[ReportEntry] = []
    names: tuple[str, ...] = ()
    for one in shown["triggered"]:
        made = entries_from(
            one.images,
            one.result,
            names=[one.case.dataset] * len(one.images),
            true_labels=one.labels,
            notes=[(one.case.attack or "clean").removeprefix("badnets:")] * len(one.images),
        )
        # The panel has a single list of classes: concatenate those of all data sets and shift the labels.
        entries += [_moved(entry, len(names)) for entry in made]
        names += one.names
    write_figure(path, entries, class_names=names, max_rows=len(entries))
    return save(None, path, rows)


def _draw_refinement(path: Path, pictures: Pictures, shown: dict[str, list[_Shown]], rows: list[_Row]) -> Path:
    """Draw S_i after increasing numbers of steps.

    The random numbers of a step depend only on the image and the step, so a run of four steps equals the first four
    steps of a run of ten.
    """
    columns = [dict(variant.settings).get("refinement.steps", 0) for variant in pictures.variants]
    cases = list(dict.fromkeys(one.case for one in shown["triggered"]))
    table = []
    for case in cases:
        ones = [one for one in shown["triggered"] if one.case == case]
        for index in range(len(ones[0].images)):
            maps = [one.result.image_scores for one in ones]
            table.append(
                [
                    Tile(
                        image=ones[0].images[index],
                        text=_answer(ones[0], index, before=True),
                        side=case.label if index == 0 else "",
                    ),
                    *(Tile(scores=scores[index]) for scores in maps if scores is not None),
                    Tile(image=ones[-1].result.images[index], text=_answer(ones[-1], index)),
                ]
            )
    heads = ["triggered", *(f"$S_i$, step {step}" for step in columns), "purified"]
    return save(mosaic(table, heads), path, rows)


def _draw_side_by_side(path: Path, pictures: Pictures, shown: dict[str, list[_Shown]], rows: list[_Row]) -> Path:
    """Draw a row for each image and a column for each defense, with the labels below."""
    ones = shown["triggered"]
    defenses = list(dict.fromkeys(one.variant.defense for one in ones))
    table = []
    for case in dict.fromkeys(one.case for one in ones):
        by_name = {one.variant.defense: one for one in ones if one.case == case}
        first = next(iter(by_name.values()))
        for index in range(len(first.images)):
            before = _answer(first, index, before=True)
            tiles = [Tile(image=first.images[index], text=before, side=case.label if index == 0 else "")]
            for name in defenses:
                one = by_name.get(name)
                tiles.append(Tile() if one is None else Tile(image=one.result.images[index], text=_answer(one, index)))
            table.append(tiles)
    return save(mosaic(table, ["triggered", *defenses]), path, rows)


def _draw_scores(path: Path, pictures: Pictures, shown: dict[str, list[_Shown]], rows: list[_Row]) -> Path:
    """Draw histograms of the largest score S of an image, with a column for each case and a row for each defense."""
    cases = list(dict.fromkeys(row.case for row in rows))
    defenses = list(dict.fromkeys(row.defense for row in rows))
    figure = new_figure(width=0.8 + 3.2 * len(cases), height=0.9 + 2.3 * len(defenses))
    grid = figure.subplots(len(defenses), len(cases), squeeze=False, sharex=True, sharey=True)
    for axes, defense in zip(grid, defenses, strict=True):
        for panel, case in zip(axes, cases, strict=True):
            for part, colour in (("clean", COLOURS[0]), ("triggered", COLOURS[1])):
                chosen = [row for row in rows if (row.case, row.defense, row.part) == (case, defense, part)]
                values = [min(max(row.largest_score, 0.0), 1.0) for row in chosen if row.largest_score is not None]
                weights = [100 / len(values)] * len(values)
                style = {"color": colour, "label": part, "hatch": "//" if part == "triggered" else ""}
                panel.hist(values, bins=25, range=(0, 1), weights=weights, alpha=0.55, **style)
            panel.grid(alpha=0.3)
            if defense == defenses[0]:
                panel.set_title(case, fontsize=10)
            if defense == defenses[-1]:
                panel.set_xlabel("largest score $S$ of an image")
        axes[0].set_ylabel(f"{defense}\nimages in %")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return save(figure, path, rows)


def _answer(one: _Shown, index: int, *, before: bool = False) -> tuple[str, bool]:
    """Return the name of an image's label, before or after the defense, and whether it is the true one."""
    label = int((one.result.original_labels if before else one.result.labels)[index])
    return one.names[label], label == int(one.labels[index])


def _moved(entry: ReportEntry, offset: int) -> ReportEntry:
    """Return the entry with its labels shifted by ``offset``."""
    original, true = (None if one is None else one + offset for one in (entry.original_label, entry.true_label))
    return dataclasses.replace(entry, original_label=original, label=entry.label + offset, true_label=true)


def _rows(one: _Shown, part: str) -> list[_Row]:
    scores = one.result.scores
    largest = None if scores is None else scores.flatten(1).amax(dim=1)
    return [
        _Row(
            case=one.case.label,
            defense=one.variant.defense,
            image=index,
            part=part,
            true_label=int(one.labels[index]),
            original_label=int(one.result.original_labels[index]),
            label=int(one.result.labels[index]),
            largest_score=None if largest is None else round(float(largest[index]), 4),
        )
        for index in range(len(one.images))
    ]
