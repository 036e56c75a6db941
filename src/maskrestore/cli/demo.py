"""``maskrestore demo``: defend a packaged classifier on rendered street signs, offline."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer
from torch import Tensor

from maskrestore.classifiers import ModuleClassifier
from maskrestore.cli.lab.results import RATES, progress_of, show_record
from maskrestore.cli.options import ProfileOption
from maskrestore.cli.terminal import out, progress, say
from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.attacks import Attack
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.measure.defenses import DefenseUnderTest, VictimUnderTest, make_defense
from maskrestore.lab.measure.records import Record, VictimEntry, write_record
from maskrestore.lab.measure.run import choose_images, evaluate
from maskrestore.lab.victims import PackagedVictim, load_packaged_victim
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.choice import named_restorer
from maskrestore.reporting import (
    Metric,
    ReportEntry,
    ReportSummary,
    entries_from,
    write_figure,
    write_report,
)
from maskrestore.runtime.precision import fast_arithmetic
from maskrestore.runtime.settings import flat
from maskrestore.types import Classifier, Defense, Purification

__all__ = ["demo"]

_Size = Literal["32", "224"]
_DEMOS: dict[_Size, tuple[str, int]] = {"32": ("signs-badnets", 150), "224": ("signs-224-badnets", 25)}
"""The packaged victim for each size, and how many images of each kind take about a minute."""

_FIGURE_TRIGGERED, _FIGURE_CLEAN = 6, 2
_TILE = 128
"""Least side in pixels of a picture in the figure."""


class _Keeper:
    """A defense that also keeps its images and results, for the report."""

    def __init__(self, defense: Defense) -> None:
        self._defense = defense
        self.parts: list[tuple[Tensor, Purification]] = []

    def purify(self, images: Tensor, classifier: Classifier) -> Purification:
        """Purify with the wrapped defense."""
        result = self._defense.purify(images, classifier)
        self.parts.append((images, result))
        return result


def demo(
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = Path("demo-report"),
    size: Annotated[_Size, typer.Option(help="Side of the images in pixels.")] = "32",
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Number of images without the sticker, and of images with it. Default: 150, or 25 at the size 224.",
        ),
    ] = None,
    profile: ProfileOption = "default",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of test images.")] = 0,
) -> None:
    """Defend a street-sign classifier that has a backdoor. Needs no data and no network; takes half a
    minute to two minutes. With `--size 224` the signs are as large as photographs.

    The attacker put a sticker on some of the training images, so the classifier gives one wrong label to
    every sign with the sticker. The signs of the demo are new: neither the classifier nor the masked
    autoencoder was trained on them. The defense sees images and labels, and does not know of the sticker.

    Writes into the folder of `--out`: `report.html` with pictures of what was found and removed,
    `figure.png` with some of them, and `record.json` with the results.
    """
    name, usual = _DEMOS[size]
    images = images or usual
    packaged = load_packaged_victim(name)
    attack = packaged.attack
    precision = fast_arithmetic()
    victim = VictimUnderTest(
        classifier=ModuleClassifier(packaged.network, precision=precision),
        entry=VictimEntry(
            config=packaged.config.canonical(),
            digest=packaged.config.digest(),
            weights=weights_digest(packaged.network) or "",
            precision=precision,
            ca=None,
            asr=None,
        ),
    )
    restorer = packaged.config.spec.restorer
    defense = make_defense(
        {"default": "bdmae"}.get(profile, f"bdmae-{profile}"),
        PROFILES[profile],
        dataset=packaged.config.dataset,
        restorer=functools.partial(named_restorer, restorer),
        restorer_name=restorer,
    )
    # More than needed: signs of the attacker's own class cannot show whether the attack succeeds.
    say(f"rendering signs; each is one of {len(packaged.class_names)} classes")
    signs = load_signs("test", count=3 * images, size=int(size))
    keeper = _Keeper(defense.defense)
    with progress("demo") as update:
        record = evaluate(
            signs,
            attack,
            victim,
            DefenseUnderTest(defense=keeper, entry=defense.entry),
            clean_count=images,
            triggered_count=images,
            seed=seed,
            progress=progress_of(update),
        )
    show_record(record)
    write_record(out_dir / "record.json", record)
    entries = _entries(keeper, signs, attack, images, seed)
    _write_pictures(out_dir, entries, record, packaged)


def _entries(keeper: _Keeper, signs: ImageDataset, attack: Attack, count: int, seed: int) -> list[ReportEntry]:
    """The entries of the report, images with the trigger first."""
    clean = choose_images(signs.labels, count, seed)
    triggered = choose_images(signs.labels, count, seed, attack.eligible(signs.labels))
    true_labels = [*signs.labels[clean].tolist(), *signs.labels[triggered].tolist()]
    names = [f"sign {index}" for index in [*clean.tolist(), *triggered.tolist()]]
    notes = ["clean"] * count + ["triggered"] * count
    entries: list[ReportEntry] = []
    for images, result in keeper.parts:
        rows = slice(len(entries), len(entries) + len(images))
        entries += entries_from(images, result, names=names[rows], true_labels=true_labels[rows], notes=notes[rows])
    return entries[count:] + entries[:count]


def _write_pictures(out_dir: Path, entries: list[ReportEntry], record: Record, packaged: PackagedVictim) -> None:
    class_names, config = packaged.class_names, packaged.config
    triggered = [entry for entry in entries if entry.note == "triggered"]
    changed = [entry for entry in triggered if entry.changed]
    untouched = [entry for entry in entries if entry.note == "clean"]
    shown = (changed or triggered)[:_FIGURE_TRIGGERED] + untouched[:_FIGURE_CLEAN]
    figure = write_figure(
        out_dir / "figure.png", shown, class_names=class_names, tile=max(_TILE, config.spec.image_size)
    )
    summary = ReportSummary(
        title="maskrestore demo: street signs with a sticker",
        description=f"This classifier has a backdoor: it says “{class_names[config.target]}” for every sign with a "
        "small coloured sticker. Images with the sticker are called triggered, the others clean. maskrestore finds "
        "suspicious spots in each image, restores them, and asks the classifier again. It sees labels only, and knows "
        "nothing about the sticker.",
        metrics=_metrics(record),
        settings={"restorer": record.defense.restorer, **flat(record.defense.config)},
        key_fingerprint=record.defense.key_fingerprint,
        images_per_second=record.cost.images_per_second,
        seconds=record.cost.seconds,
    )
    page = write_report(out_dir, entries, summary, class_names=class_names)
    out.print(f"wrote {page}, {figure} and {out_dir / 'record.json'}", highlight=False, soft_wrap=True)


def _metrics(record: Record) -> list[Metric]:
    metrics = []
    for name, (short, meaning) in RATES.items():
        before, after = getattr(record.before, name), getattr(record.after, name)
        metrics.append(
            Metric(
                name=short,
                meaning=meaning.capitalize(),
                before=before.value,
                after=after.value,
                before_interval=(before.low, before.high),
                after_interval=(after.low, after.high),
                higher_is_better=name != "asr",
                images=after.trials,
            )
        )
    return metrics
