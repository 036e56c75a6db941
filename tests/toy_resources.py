"""Resources that are toys: every data set is the same one, every defense erases the corner that holds the trigger."""

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from maskrestore.lab.baselines import Detection
from maskrestore.lab.measure.defenses import NoDefense
from maskrestore.lab.measure.detection import DetectorUnderTest
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.paper.cells import Cell
from maskrestore.lab.runner.resources import Resources
from maskrestore.lab.victims import TrainingProgress
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim


class RedCorner:
    """Scores an image by the red of its last pixel, which a trigger makes white."""

    def score(self, images, classifier):
        return Detection(scores=images[:, 0, -1, -1].double(), queries=classifier(images) * 0 + 3)


class ToyResources:
    """Makes a ``Resources`` and counts what is asked of it; deadly defenses kill the process that builds them."""

    def __init__(
        self,
        folder: Path,
        *,
        trained: bool = True,
        broken: frozenset[str] = frozenset(),
        deadly: frozenset[str] = frozenset(),
    ):
        self.folder, self.trained, self.broken, self.deadly = folder, trained, broken, deadly
        self.measured: list[str] = []

    @property
    def trainings(self) -> list[str]:
        """What was trained, by whichever process, in order."""
        path = self.folder / "trainings.txt"
        return path.read_text().split() if path.exists() else []

    def make(self, *, train: object = None, known: Sequence[Path] = (), **options: object) -> Resources:
        return Resources(
            dataset=lambda name: dataclasses.replace(make_dataset(), name=name),
            attack=lambda cell: CornerAttack(),
            victim=self._victim,
            trained=self._trained,
            victim_file=lambda config: self.folder / "victims" / f"{config.digest()}.safetensors",
            defense=self._defense,
            detector=lambda cell: DetectorUnderTest(
                detector=RedCorner(), name=cell.variant.defense, config={}, key_fingerprint="0123"
            ),
            train=self._train if train else None,
            known={record.digest: record for folder in known for record in read_records(folder)},
        )

    def _victim(self, config):
        if not self._trained(config):
            return None
        made = make_victim(config.digest())
        entry = dataclasses.replace(
            made.entry, config={"architecture": "resnet18", "width": config.width, "attack": config.attack}
        )
        return dataclasses.replace(made, entry=entry)

    def _trained(self, config):
        return self.trained or config.digest() in self.trainings

    def _train(self, config, report):
        report(TrainingProgress(step=1, steps=2, epoch=0.5, loss=0.1, images_per_second=9.0))
        with (self.folder / "trainings.txt").open("a") as file:
            file.write(config.digest() + "\n")

    def _defense(self, cell: Cell):
        name = cell.variant.defense
        if name in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.broken:
            raise RuntimeError(f"{name} has no\nweights")
        self.measured.append(cell.name)
        return make_defense(NoDefense() if name == "none" else EraseCorner(), name)
