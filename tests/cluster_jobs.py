"""Jobs for workers on a cluster: importable by name, so that another process can make them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fakes import colour_labels
from maskrestore import BDMAE
from maskrestore.defense.batching import over_budget
from maskrestore.defense.profiles import PROFILES
from maskrestore.imaging.codec import write_png
from maskrestore.jobs import FolderJob
from maskrestore.runtime.digests import raw_digest
from maskrestore.types import Purification, StreamResult


def write_photos(folder: Path, count: int, *, side: int = 16) -> Path:
    """Pictures of random pixels, each with a colour of its own."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(7)
    for number in range(count):
        tint = torch.rand(3, 1, 1, generator=generator)
        picture = (tint + 0.2 * torch.rand(3, side, side, generator=generator)).clamp(0, 1)
        write_png(folder / f"{number:03}.png", picture)
    return folder


class Asking:
    """A defense that asks once about each image and changes nothing."""

    config, key, restorer = PROFILES["default"], 0, None

    def purify_stream(self, items, classifier, *, budget, asking):
        for item in items:
            if not budget.allows(1):
                yield StreamResult(id=item.id, error=over_budget(budget, 1))
                continue
            budget.spend(1)
            images = item.image[None]
            labels = classifier(images)
            result = Purification(images=images, labels=labels, original_labels=labels, queries=torch.ones(1).long())
            yield StreamResult(id=item.id, result=result)


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Answers by colour, and notes each question in a file. It may kill the process that asks it."""

    log: Path
    seconds: float = 0.0
    deadly: str | None = None
    """The picture that kills who asks about it."""
    deaths: int = 10**9
    """How often."""

    def __call__(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        for image in images:
            name = name_of(image)
            asked = questions(self.log).count(name)
            with self.log.open("a") as file:
                file.write(json.dumps({"picture": name, "process": os.getpid()}) + "\n")
            if name == self.deadly and asked < self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return colour_labels(images)


def name_of(image: Tensor) -> str:
    """A name for the pixels ``(C, H, W)`` of a picture."""
    return raw_digest([image.contiguous().numpy().tobytes()], size=8).hex()


def questions(log: Path) -> list[str]:
    """The pictures that were asked about, in order."""
    return [json.loads(line)["picture"] for line in log.read_text().splitlines()] if log.exists() else []


def logged_job(source: Path, out: Path, classifier: Logged, **options) -> FolderJob:
    """A job that asks once about each image."""
    return FolderJob(source=source, out=out, defense=Asking(), classifier=classifier, classifier_id="logged", **options)


def real_job(source: Path, out: Path, key: int = 3, **options) -> FolderJob:
    """A job with the real defense, and few queries."""
    defense = BDMAE("mae-tiny-32", "fast", key=key)
    return FolderJob(
        source=source, out=out, defense=defense, classifier=colour_labels, classifier_id="colours", **options
    )


def results(out: Path) -> dict[str, dict]:
    """The records, without times."""
    lines = (out / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = {record["file"]: {name: value for name, value in record.items() if name != "seconds"} for record in records}
    assert len(found) == len(records), "an image has two records"
    return found
