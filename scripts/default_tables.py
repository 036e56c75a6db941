"""The tables of what the default and ``fast`` bring and cost, in README.md and in ``docs``, from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.tables import Tables, head, line

from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.measure.detection import DetectionRecord, detection_records
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import Record

__all__ = [
    "DEFENSES",
    "DETECTED",
    "DETECTIONS",
    "PAGES",
    "PUBLIC",
    "README",
    "RECORDS",
    "attack_of",
    "clean_classifiers",
    "of_attack",
    "rates",
]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
RECORDS = list(read_records(RESULTS / "default.jsonl"))
PUBLIC = {(one.victim.config["architecture"], one.defense.name): one for one in read_records(RESULTS / "public.jsonl")}
"""By architecture and defense."""
DETECTIONS = list(detection_records(RESULTS / "suspicion.jsonl").read().values())
DEFENSES = ("none", "bdmae", "bdmae-fast")
"""In the order of the columns."""
NAMES = ("no defense", "`default`", "`fast`")
ALL_TO_ALL = "badnets:3x3-color, all-to-all"
README = {
    "patch of 3 x 3 pixels": "badnets:3x3-color",
    "four corners": "corners",
    "faint patch over 22 % of the image": "blended:15x15",
    "a target for each class (all-to-all)": ALL_TO_ALL,
    "noise over the whole image": "blended:full",
    "stripes over the whole image (SIG)": "sig",
    "warped image (WaNet)": "wanet",
    "smooth field over the whole image": "low-frequency",
    "adaptive: repeated everywhere": "repeated",
    "adaptive: a large faint tint": "low-contrast",
}
"""The attack of each row."""
WHOLE_IMAGE = {
    **{name: name for name in ("blended:full", "sig")},
    "low-frequency (a smooth field)": "low-frequency",
    **{name: name for name in ("wanet", "repeated", "bpp")},
    "**held out**": "",
    **{name: name for name in ("low-contrast", "adap-blend", "refool")},
}
"""Triggers over the whole image. The stages for them were chosen on those above the title."""
DETECTED = (
    *("badnets:3x3-color", ALL_TO_ALL, "blended:full", "sig", "low-frequency", "wanet", "repeated", "blended:15x15"),
    *("bpp", "adap-blend", "refool", "low-contrast"),
)
"""Attacks with records of detectors, in the order of the rows."""
COVERAGES = {"all answered": "1.0", "90 %": "0.9", "80 %": "0.8", "50 %": "0.5"}
"""Shares of the images that are answered."""


def rates(metrics: Metrics) -> str:
    """In per cent, such as "92.0 / 67.0 / 17.5"; of clean images only, "92.0"."""
    found = (metrics.ca, metrics.ba, metrics.asr)
    return " / ".join(_per_cent(rate.value) for rate in found if rate is not None)


def attack_of(record: Record | DetectionRecord) -> str:
    """The attack, and the mode unless it is the usual one."""
    mode = record.victim.config["mode"]
    return f"{record.attack}" if mode == "all-to-one" else f"{record.attack}, {mode}"


def of_attack(defense: str, attack: str) -> Record:
    """The record of a defense against an attack. Raises ValueError unless there is one."""
    (found,) = (one for one in RECORDS if one.attack and one.defense.name == defense and attack_of(one) == attack)
    return found


def clean_classifiers() -> dict[str, dict[str, Record]]:
    """The records of clean classifiers, by the name of their row and by defense."""
    found: dict[str, dict[str, Record]] = {}
    for one in RECORDS:
        if one.attack is None:
            found.setdefault(f"{one.dataset}, {one.victim.config['architecture']}", {})[one.defense.name] = one
    return found


def attacks(title: str, names: Mapping[str, str], *, columns: tuple[str, ...] = NAMES) -> Iterator[str]:
    """What the defenses bring. names: the attack of each row; with an empty one the row is a title."""
    yield from head(title, *columns)
    for name, attack in names.items():
        yield line(name, *(rates(of_attack(defense, attack).after) if attack else "" for defense in DEFENSES))


def success() -> Iterator[str]:
    """The attack success rates alone."""
    yield from head("", "attack success rate: before → after")
    for name, attack in README.items():
        one = of_attack("bdmae", attack)
        found = [rate.value for rate in (one.before.asr, one.after.asr) if rate is not None]
        yield line(name, f"{' → '.join(map(_per_cent, found))} %")


def patch() -> Iterator[str]:
    """A patch, with the queries it takes."""
    yield from head("", "CA / BA / ASR", "queries")
    for name, defense in zip(NAMES, DEFENSES, strict=True):
        one = of_attack(defense, "badnets:3x3-color")
        yield line(name, rates(one.after), "1" if defense == "none" else f"{one.cost.queries_mean:.1f}")


def clean() -> Iterator[str]:
    """What the defenses cost clean classifiers of this project."""
    yield from head("classifier", *NAMES)
    for name, found in sorted(clean_classifiers().items()):
        yield line(name, *(rates(found[defense].after) for defense in DEFENSES))


def public() -> Iterator[str]:
    """What they cost classifiers that were trained elsewhere."""
    yield from head("classifier", *NAMES)
    for architecture in sorted({name for name, _ in PUBLIC}):
        default, fast = (PUBLIC[architecture, defense] for defense in DEFENSES[1:])
        name = f"public {architecture.replace('resnet', 'ResNet-')}"
        yield line(name, rates(default.before), rates(default.after), rates(fast.after))


def areas() -> Iterator[str]:
    """The areas under the curve of the suspicion and of detectors; the best in a row is bold, unless several are."""
    shown = {"strip": "STRIP", "scale-up": "SCALE-UP", "teco": "TeCo", "bbcal": "BBCaL"}
    assert shown.keys() == DETECTORS.keys()
    yield from head("attack", "suspicion", *shown.values())
    for attack in DETECTED:
        one = of_attack("bdmae", attack)
        others = {other.detector: other for other in DETECTIONS if attack_of(other) == attack}
        assert one.suspicion is not None
        assert one.suspicion.auroc is not None
        cells = [f"{area.value:.2f}" for area in (one.suspicion.auroc, *(others[name].auroc for name in shown))]
        best = max(cells)
        yield line(attack, *(f"**{cell}**" if cell == best and cells.count(best) == 1 else cell for cell in cells))


def wrong_answers() -> Iterator[str]:
    """The risk-coverage curve, and how many images are in doubt."""
    yield from head("attack", *COVERAGES, "in doubt: clean / triggered")
    for attack in DETECTED:
        found = of_attack("bdmae", attack).suspicion
        assert found is not None
        assert found.doubtful_triggered is not None
        doubtful = (found.doubtful_clean, found.doubtful_triggered)
        shares = (_per_cent(found.risks[share]) for share in COVERAGES.values())
        yield line(attack, *shares, " / ".join(_per_cent(rate.value) for rate in doubtful))


def _per_cent(value: float) -> str:
    return f"{100 * value:.1f}"


PAGES: dict[Path, Tables] = {
    ROOT / "README.md": {
        "results": lambda: attacks("trigger", README, columns=("no defense", "**maskrestore**", "profile `fast`"))
    },
    ROOT / "docs/threat-model.md": {"success": success},
    ROOT / "docs/method/whole-image.md": {"whole-image": lambda: attacks("attack", WHOLE_IMAGE)},
    ROOT / "docs/method/default-profile.md": {"clean": clean, "public": public},
    ROOT / "docs/method/suspicion.md": {"areas": areas, "wrong-answers": wrong_answers},
    ROOT / "docs/guides/queries-and-profiles.md": {"patch": patch},
}
"""The tables of each page."""
