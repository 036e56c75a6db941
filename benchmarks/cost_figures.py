"""Measure the figures of ``maskrestore cost``: what one core, or one GPU, takes for an image.

    python -m benchmarks.cost_figures --out mine.json
    python -m benchmarks.cost_figures --device cuda --images 256 --large-images 128 --out mine-gpu.json
    maskrestore cost --images 1e9 --figures mine.json

Purifies folders of rendered street signs, as ``maskrestore purify`` does: one of clean signs, and one of signs with the
trigger of the packaged victim of their size. Reading and writing files counts; loading networks and the classifier's
own time do not. On a CPU the program keeps to one core: the last that it may use. With ``--speed`` figures of GPUs from
records of ``benchmarks.speed`` are added; those are the times of calls without files, the classifier included. The file
of the package is made by

    python -m benchmarks.cost_figures --speed benchmarks/results/speed/tiny-conv-cuda.json \\
      --out src/maskrestore/assets/cost-figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.contenders import CONTENDERS
from benchmarks.speed_cases import SIGNS
from benchmarks.stages import Clock
from torch import Tensor, nn

from maskrestore import BDMAE, PROFILES, ModuleClassifier
from maskrestore.distributed.cost import FIGURES_VERSION, Figure, Measured, ResultBytes, Unit, read_figures
from maskrestore.imaging.codec import write_png
from maskrestore.jobs import FolderJob, purify_folder
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.measure.run import choose_images, triggered_images
from maskrestore.lab.victims import load_packaged_victim
from maskrestore.mae.choice import named_restorer, packaged_restorer
from maskrestore.runtime.environment import Environment, current_environment
from maskrestore.runtime.precision import fast_arithmetic

CASES = {packaged_restorer(side, side): (case, victim, side) for case, (victim, side) in SIGNS.items()}
"""Case of ``benchmarks.speed``, packaged victim and side of its images, by the packaged restorer for them."""
SMALL = 32
"""Side of the images of ``--images``; larger ones are those of ``--large-images``."""


def main() -> None:
    arguments = _parser().parse_args()
    clock = Clock(arguments.device, arguments.clock)
    if clock.device == "cpu":
        _keep_to_one_core()
    figures = read_figures(arguments.out) if arguments.keep and arguments.out.exists() else []
    known = {(one.restorer, one.profile, one.unit) for one in figures}
    records = [one for path in arguments.speed for one in figures_of_speed(path, arguments.profiles)]
    figures += [one for one in records if (one.restorer, one.profile, one.unit) not in known]
    for restorer in arguments.restorers:
        count = arguments.images if CASES[restorer][2] <= SMALL else arguments.large_images
        for profile in arguments.profiles:
            if (restorer, profile, unit_of(clock)) in known:
                continue
            figures.append(measure(restorer, profile, count, clock, arguments.repeats))
            print(json.dumps(dataclasses.asdict(figures[-1])), flush=True)
            record = {
                "version": FIGURES_VERSION,
                "benchmark": "cost_figures",
                "clock": arguments.clock,
                "repeats": arguments.repeats,
                "note": arguments.note,
                "figures": [dataclasses.asdict(figure) for figure in figures],
                "environment": dataclasses.asdict(current_environment(clock.device)),
            }
            arguments.out.write_text(json.dumps(record, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restorers", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=["default", "fast", "paper"])
    parser.add_argument("--images", type=int, default=128, help="images of 32 x 32 of each kind, clean and triggered")
    parser.add_argument("--large-images", type=int, default=32, help="images of 224 x 224 of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="runs over the same images; the median time counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a shared machine")
    parser.add_argument("--speed", nargs="*", type=Path, default=[], help="records of benchmarks.speed on a GPU")
    parser.add_argument("--keep", action="store_true", help="keep the figures in --out, and measure what it lacks")
    parser.add_argument("--note", default="", help="text for the record, such as the load of the machine")
    parser.add_argument("--out", type=Path, required=True, help="file of the figures")
    return parser


def _keep_to_one_core() -> None:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def unit_of(clock: Clock) -> Unit:
    """What a worker has: one core, or one GPU."""
    return "core" if clock.device == "cpu" else "GPU"


def measure(restorer: str, profile: str, count: int, clock: Clock, repeats: int) -> Figure:
    """Purify ``count`` clean images and as many triggered ones, in turns."""
    _, victim, side = CASES[restorer]
    network = named_restorer(restorer, device=clock.device)
    defense = BDMAE(network, PROFILES[profile])
    classifier = _TimedClassifier(load_packaged_victim(victim).network, clock)
    parts = pictures(victim, side, count)
    defense.purify(parts[0.0][:1], classifier)  # what is done once for a process
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            share: _written_job(images, Path(folder) / f"{share}", defense, classifier, victim)
            for share, images in parts.items()
        }
        runs = [{share: _run(job, clock, classifier) for share, job in jobs.items()} for _ in range(repeats)]
        result = bytes_of([job.out for job in jobs.values()], 2 * count)
    here = current_environment(clock.device)
    return Figure(
        restorer=restorer,
        profile=profile,
        unit=unit_of(clock),
        size=side,
        machine=_machine(here),
        precision=network.precision,
        created=datetime.now(UTC).date().isoformat(),
        source=f"benchmarks/cost_figures.py at {here.commit[:12]}",
        measured=tuple(_median([run[share] for run in runs], share, count) for share in parts),
        result=result,
    )


def pictures(victim: str, side: int, count: int) -> dict[float, Tensor]:
    """Signs ``(count, 3, side, side)`` float32 by the share of them that has the trigger: 0, and 1."""
    attack = load_packaged_victim(victim).attack
    signs = load_signs("test", count=3 * count, size=side)
    eligible = choose_images(signs.labels, count, 0, attack.eligible(signs.labels))
    clean = choose_images(signs.labels, count, 0)
    return {0.0: signs.images[clean].float() / 255, 1.0: triggered_images(signs.images[eligible], attack)}


class _TimedClassifier(ModuleClassifier):
    """Sums the time of its answers."""

    def __init__(self, module: nn.Module, clock: Clock) -> None:
        super().__init__(module, precision=fast_arithmetic(clock.device), device=clock.device)
        self._clock, self.seconds = clock, 0.0

    def __call__(self, images: Tensor) -> Tensor:
        started = self._clock.now()
        labels = super().__call__(images)
        self.seconds += self._clock.now() - started
        return labels


def _written_job(images: Tensor, folder: Path, defense: BDMAE, classifier: _TimedClassifier, victim: str) -> FolderJob:
    source = folder / "source"
    source.mkdir(parents=True)
    for number, image in enumerate(images):
        write_png(source / f"{number:06}.png", image)
    return FolderJob(
        source=source, out=folder / "out", defense=defense, classifier=classifier, classifier_id=victim, again=True
    )


def _run(job: FolderJob, clock: Clock, classifier: _TimedClassifier) -> tuple[float, int]:
    """Seconds without the classifier, and queries, of all images of a job."""
    classifier.seconds = 0.0
    started = clock.now()
    summary = purify_folder(job)
    seconds = clock.now() - started - classifier.seconds
    if not summary.complete:
        raise SystemExit(f"some images were not purified: {summary.failures} {summary.stopped}")
    return seconds, summary.queries


def _median(runs: Sequence[tuple[float, int]], share: float, count: int) -> Measured:
    seconds, queries = (statistics.median(values) / count for values in zip(*runs, strict=True))
    return Measured(triggered=share, images=count, seconds=_rounded(seconds), queries=_rounded(queries))


def bytes_of(folders: Sequence[Path], images: int) -> ResultBytes:
    """Mean sizes of the results in folders of jobs, which hold ``images`` images together."""

    def mean(pattern: str) -> float:
        return round(sum(path.stat().st_size for folder in folders for path in folder.rglob(pattern)) / images, 1)

    return ResultBytes(image=mean("*.png"), maps=mean("*.npz"), record=mean("records.jsonl"))


def figures_of_speed(path: Path, profiles: Sequence[str]) -> list[Figure]:
    """The figures that a record of ``benchmarks.speed`` on a GPU holds of packaged restorers."""
    record = json.loads(path.read_text())
    here = Environment(**record["environment"])
    if here.accelerator is None:
        raise SystemExit(f"{path} was not measured on a GPU; without --speed this program measures a core")
    names = {one.profile: name for name, one in CONTENDERS.items() if one.precision == "auto"}
    found = []
    for row in record["rows"]:
        for restorer, (case, _, side) in CASES.items():
            for profile in profiles if row["case"] == case else ():
                if names[profile] in row:
                    found.append(_figure_of_row(row, names[profile], here, path, (restorer, profile, side)))
    return found


def _figure_of_row(
    row: dict[str, Any], contender: str, environment: Environment, path: Path, case: tuple[str, str, int]
) -> Figure:
    restorer, profile, side = case
    return Figure(
        restorer=restorer,
        profile=profile,
        unit="GPU",
        size=side,
        machine=_machine(environment),
        precision=row[contender]["profile"]["precision"],
        created=_date_of(path),
        source=f"{path.name} of benchmarks/speed.py, with the classifier",
        measured=(
            Measured(
                triggered=_rounded(row["triggered"] / row["images"]),
                images=row["images"],
                seconds=_rounded(statistics.median(row["seconds_per_image"][contender])),
                queries=row[contender]["queries_per_image"],
            ),
        ),
    )


def _machine(environment: Environment) -> str:
    return environment.accelerator or environment.device


def _date_of(path: Path) -> str:
    """The day when a record was committed: it does not say itself when it was made."""
    command = ["git", "log", "-1", "--format=%as", "--", path.name]
    date = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True).stdout.strip()
    return date or datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
