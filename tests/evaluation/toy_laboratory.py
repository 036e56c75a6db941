"""A laboratory of toys: every data set is the same one, every defense erases the corner that holds the trigger."""

import dataclasses
from pathlib import Path

from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim

from maskrestore.baselines import Detection
from maskrestore.evaluation.defenses import NoDefense
from maskrestore.evaluation.detection import DetectorUnderTest
from maskrestore.evaluation.grid import Cell
from maskrestore.evaluation.reproduce import Laboratory


class RedCorner:
    """Scores an image by the red of its last pixel, which a trigger makes white."""

    def score(self, images, classifier):
        return Detection(scores=images[:, 0, -1, -1].double(), queries=classifier(images) * 0 + 3)


class ToyLaboratory:
    """Makes a ``Laboratory`` and counts what is asked of it."""

    def __init__(self, folder: Path, *, trained: bool = True, broken: frozenset[str] = frozenset()):
        self.folder, self.trained, self.broken = folder, trained, broken
        self.trainings: list[str] = []
        self.measured: list[str] = []

    def make(self, *, train: bool = False) -> Laboratory:
        return Laboratory(
            dataset=lambda name: dataclasses.replace(make_dataset(), name=name),
            attack=lambda cell: CornerAttack(),
            victim=self._victim,
            victim_file=lambda config: self.folder / "victims" / f"{config.digest()}.safetensors",
            defense=self._defense,
            detector=lambda cell: DetectorUnderTest(
                detector=RedCorner(), name=cell.variant.defense, config={}, key_fingerprint="0123"
            ),
            train=self._train if train else None,
        )

    def _victim(self, config):
        if not (self.trained or config.digest() in self.trainings):
            return None
        made = make_victim(config.digest())
        entry = dataclasses.replace(
            made.entry, config={"architecture": "resnet18", "width": config.width, "attack": config.attack}
        )
        return dataclasses.replace(made, entry=entry)

    def _train(self, config):
        if config.digest() not in self.trainings:
            self.trainings.append(config.digest())

    def _defense(self, cell: Cell):
        name = cell.variant.defense
        if name in self.broken:
            raise RuntimeError(f"{name} has no\nweights")
        self.measured.append(cell.name)
        return make_defense(NoDefense() if name == "none" else EraseCorner(), name)
